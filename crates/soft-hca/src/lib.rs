//! soft-hca
