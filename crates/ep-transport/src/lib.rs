//! ep-transport
