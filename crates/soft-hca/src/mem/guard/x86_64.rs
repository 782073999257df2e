//! Accesses on x86-64.
//!
//! All are leaves that leave the stack alone, so wherever one of them faults,
//! the exit returns to its caller. Loads acquire and stores release by
//! themselves.

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
    cmp rdx, 16
    jb 4f
    // A load that seems to overlap a store just made waits for it, and only the
    // low 12 bits of addresses are compared: where the target is a little ahead
    // in that, as behind a packet's headers, the end is copied first.
    mov eax, edi
    sub eax, esi
    and eax, 4095
    cmp eax, 256
    jb 9f
    // The last 16 bytes are moved by themselves, whatever the length.
    movups xmm4, [rsi + rdx - 16]
    lea rcx, [rdi + rdx - 16]
2:  cmp rdx, 64
    jb 3f
    movups xmm0, [rsi]
    movups xmm1, [rsi + 16]
    movups xmm2, [rsi + 32]
    movups xmm3, [rsi + 48]
    movups [rdi], xmm0
    movups [rdi + 16], xmm1
    movups [rdi + 32], xmm2
    movups [rdi + 48], xmm3
    add rsi, 64
    add rdi, 64
    sub rdx, 64
    jmp 2b
3:  cmp rdx, 16
    jbe 5f
    movups xmm0, [rsi]
    movups [rdi], xmm0
    add rsi, 16
    add rdi, 16
    sub rdx, 16
    jmp 3b
5:  test rdx, rdx
    jz 6f
    movups [rcx], xmm4
6:  xor eax, eax
    ret
    // From the end; the first 16 bytes are moved by themselves.
9:  movups xmm4, [rsi]
2:  cmp rdx, 64
    jb 3f
    movups xmm0, [rsi + rdx - 16]
    movups xmm1, [rsi + rdx - 32]
    movups xmm2, [rsi + rdx - 48]
    movups xmm3, [rsi + rdx - 64]
    movups [rdi + rdx - 16], xmm0
    movups [rdi + rdx - 32], xmm1
    movups [rdi + rdx - 48], xmm2
    movups [rdi + rdx - 64], xmm3
    sub rdx, 64
    jmp 2b
3:  cmp rdx, 16
    jbe 5f
    movups xmm0, [rsi + rdx - 16]
    movups [rdi + rdx - 16], xmm0
    sub rdx, 16
    jmp 3b
5:  test rdx, rdx
    jz 6f
    movups [rdi], xmm4
6:  xor eax, eax
    ret
    // Fewer than 16.
4:  cmp rdx, 8
    jb 7f
    mov rax, [rsi]
    mov rcx, [rsi + rdx - 8]
    mov [rdi], rax
    mov [rdi + rdx - 8], rcx
    xor eax, eax
    ret
7:  cmp rdx, 4
    jb 8f
    mov eax, [rsi]
    mov ecx, [rsi + rdx - 4]
    mov [rdi], eax
    mov [rdi + rdx - 4], ecx
    xor eax, eax
    ret
8:  test rdx, rdx
    jz 6b
    mov al, [rsi]
    mov [rdi], al
    inc rsi
    inc rdi
    dec rdx
    jmp 8b
    .cfi_endproc
    .size soft_hca_guard_copy, . - soft_hca_guard_copy

    .p2align 4
    .hidden soft_hca_guard_store_u32
    .globl soft_hca_guard_store_u32
    .type soft_hca_guard_store_u32,@function
soft_hca_guard_store_u32:
    .cfi_startproc
    mov [rdi], esi
    xor eax, eax
    ret
    .cfi_endproc
    .size soft_hca_guard_store_u32, . - soft_hca_guard_store_u32

    .p2align 4
    .hidden soft_hca_guard_store_u64
    .globl soft_hca_guard_store_u64
    .type soft_hca_guard_store_u64,@function
soft_hca_guard_store_u64:
    .cfi_startproc
    mov [rdi], rsi
    xor eax, eax
    ret
    .cfi_endproc
    .size soft_hca_guard_store_u64, . - soft_hca_guard_store_u64

    .p2align 4
    .hidden soft_hca_guard_load_u32
    .globl soft_hca_guard_load_u32
    .type soft_hca_guard_load_u32,@function
soft_hca_guard_load_u32:
    .cfi_startproc
    mov edx, [rdi]
    xor eax, eax
    ret
    .cfi_endproc
    .size soft_hca_guard_load_u32, . - soft_hca_guard_load_u32

    .p2align 4
    .hidden soft_hca_guard_swap_u32
    .globl soft_hca_guard_swap_u32
    .type soft_hca_guard_swap_u32,@function
soft_hca_guard_swap_u32:
    .cfi_startproc
    mov eax, esi
    lock cmpxchg [rdi], edx
    mov edx, eax
    xor eax, eax
    ret
    .cfi_endproc
    .size soft_hca_guard_swap_u32, . - soft_hca_guard_swap_u32

    .p2align 4
    .hidden soft_hca_guard_swap_u64
    .globl soft_hca_guard_swap_u64
    .type soft_hca_guard_swap_u64,@function
soft_hca_guard_swap_u64:
    .cfi_startproc
    mov rax, rsi
    lock cmpxchg [rdi], rdx
    mov rdx, rax
    xor eax, eax
    ret
    .cfi_endproc
    .size soft_hca_guard_swap_u64, . - soft_hca_guard_swap_u64

    .p2align 4
    .hidden soft_hca_guard_exit
    .globl soft_hca_guard_exit
    .type soft_hca_guard_exit,@function
soft_hca_guard_exit:
    .cfi_startproc
    mov eax, 1
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
    let register = context.uc_mcontext.gregs.get_mut(libc::REG_RIP as usize)?;
    // SAFETY: a register of 64 bits, as `usize` has, of whatever sign.
    Some(unsafe { &mut *std::ptr::from_mut(register).cast() })
}
