//! ep-buffer
