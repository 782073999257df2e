//! mlx5gda-sys
