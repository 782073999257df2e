//! Accesses on 64-bit Arm.
//!
//! All are leaves that leave the stack and the link register alone, so wherever
//! one of them faults, the exit returns to its caller.

use std::arch::global_asm;
use std::ops::Range;

use super::Outcome;

global_asm!(
    r#"
    .pushsection .text.soft_hca_guard,"ax",@progbits
    .hidden soft_hca_guard_start
    .globl soft_hca_guard_start
soft_hca_guard_start:

    .p2align 4
    .hidden soft_hca_guard_copy
    .globl soft_hca_guard_copy
    .type soft_hca_guard_copy,@function
soft_hca_guard_copy:
    .cfi_startproc
    cmp x2, #16
    b.lo 4f
    // The last 16 bytes are moved by themselves, whatever the length.
    sub x3, x2, #16
    add x4, x0, x3
    ldr q4, [x1, x3]
2:  cmp x2, #64
    b.lo 3f
    ldp q0, q1, [x1]
    ldp q2, q3, [x1, #32]
    stp q0, q1, [x0]
    stp q2, q3, [x0, #32]
    add x1, x1, #64
    add x0, x0, #64
    sub x2, x2, #64
    b 2b
3:  cmp x2, #16
    b.ls 5f
    ldr q0, [x1], #16
    str q0, [x0], #16
    sub x2, x2, #16
    b 3b
5:  cbz x2, 6f
    str q4, [x4]
6:  mov x0, #0
    ret
    // Fewer than 16.
4:  cmp x2, #8
    b.lo 7f
    sub x3, x2, #8
    ldr x5, [x1]
    ldr x6, [x1, x3]
    str x5, [x0]
    str x6, [x0, x3]
    mov x0, #0
    ret
7:  cmp x2, #4
    b.lo 8f
    sub x3, x2, #4
    ldr w5, [x1]
    ldr w6, [x1, x3]
    str w5, [x0]
    str w6, [x0, x3]
    mov x0, #0
    ret
8:  cbz x2, 6b
    ldrb w5, [x1], #1
    strb w5, [x0], #1
    sub x2, x2, #1
    b 8b
    .cfi_endproc
    .size soft_hca_guard_copy, . - soft_hca_guard_copy

    .p2align 4
    .hidden soft_hca_guard_store_u32
    .globl soft_hca_guard_store_u32
    .type soft_hca_guard_store_u32,@function
soft_hca_guard_store_u32:
    .cfi_startproc
    stlr w1, [x0]
    mov x0, #0
    ret
    .cfi_endproc
    .size soft_hca_guard_store_u32, . - soft_hca_guard_store_u32

    .p2align 4
    .hidden soft_hca_guard_store_u64
    .globl soft_hca_guard_store_u64
    .type soft_hca_guard_store_u64,@function
soft_hca_guard_store_u64:
    .cfi_startproc
    stlr x1, [x0]
    mov x0, #0
    ret
    .cfi_endproc
    .size soft_hca_guard_store_u64, . - soft_hca_guard_store_u64

    .p2align 4
    .hidden soft_hca_guard_load_u32
    .globl soft_hca_guard_load_u32
    .type soft_hca_guard_load_u32,@function
soft_hca_guard_load_u32:
    .cfi_startproc
    ldar w1, [x0]
    mov x0, #0
    ret
    .cfi_endproc
    .size soft_hca_guard_load_u32, . - soft_hca_guard_load_u32

    .p2align 4
    .hidden soft_hca_guard_swap_u32
    .globl soft_hca_guard_swap_u32
    .type soft_hca_guard_swap_u32,@function
soft_hca_guard_swap_u32:
    .cfi_startproc
2:  ldaxr w3, [x0]
    cmp w3, w1
    b.ne 3f
    stlxr w4, w2, [x0]
    cbnz w4, 2b
    mov w1, w3
    mov x0, #0
    ret
3:  clrex
    mov w1, w3
    mov x0, #0
    ret
    .cfi_endproc
    .size soft_hca_guard_swap_u32, . - soft_hca_guard_swap_u32

    .p2align 4
    .hidden soft_hca_guard_swap_u64
    .globl soft_hca_guard_swap_u64
    .type soft_hca_guard_swap_u64,@function
soft_hca_guard_swap_u64:
    .cfi_startproc
2:  ldaxr x3, [x0]
    cmp x3, x1
    b.ne 3f
    stlxr w4, x2, [x0]
    cbnz w4, 2b
    mov x1, x3
    mov x0, #0
    ret
3:  clrex
    mov x1, x3
    mov x0, #0
    ret
    .cfi_endproc
    .size soft_hca_guard_swap_u64, . - soft_hca_guard_swap_u64

    .p2align 4
    .hidden soft_hca_guard_exit
    .globl soft_hca_guard_exit
    .type soft_hca_guard_exit,@function
soft_hca_guard_exit:
    .cfi_startproc
    mov x0, #1
    ret
    .cfi_endproc
    .size soft_hca_guard_exit, . - soft_hca_guard_exit
    .popsection
    "#
);

unsafe extern "C" {
    /// Where the accesses begin; they end at the exit.
    fn soft_hca_guard_start();
    fn soft_hca_guard_exit();
    pub(super) fn soft_hca_guard_copy(to: *mut u8, from: *const u8, len: usize) -> Outcome;
    pub(super) fn soft_hca_guard_store_u32(to: *mut u32, value: u32) -> Outcome;
    pub(super) fn soft_hca_guard_store_u64(to: *mut u64, value: u64) -> Outcome;
    pub(super) fn soft_hca_guard_load_u32(from: *const u32) -> Outcome;
    pub(super) fn soft_hca_guard_swap_u32(at: *mut u32, expected: u32, new: u32) -> Outcome;
    pub(super) fn soft_hca_guard_swap_u64(at: *mut u64, expected: u64, new: u64) -> Outcome;
}

/// Where the accesses are, and where one that faulted goes on.
pub(super) fn code() -> (Range<usize>, usize) {
    let start = soft_hca_guard_start as *const () as usize;
    let exit = soft_hca_guard_exit as *const () as usize;
    (start..exit, exit)
}

/// Where a thread that was interrupted goes on.
pub(super) fn place(context: &mut libc::ucontext_t) -> Option<&mut usize> {
    let register = &mut context.uc_mcontext.pc;
    // SAFETY: a register of 64 bits, as `usize` has.
    Some(unsafe { &mut *std::ptr::from_mut(register).cast() })
}
