#![no_std]
//! memheap
