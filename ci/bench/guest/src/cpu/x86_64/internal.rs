//! What a guest's kernel does without its hypervisor: system calls, context switches, page faults.

use super::interrupts::{handle, write_msr};
use super::tables::{
    DIRECTORIES, Entries, KERNEL_CODE, ROOT, TABLE, USER_BASE, USER_CODE, USER_DATA,
};
use core::arch::{asm, naked_asm};
use core::ptr::addr_of_mut;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

/// MSRs of SYSCALL and SWAPGS.
mod msr {
    pub const STAR: u32 = 0xc000_0081;
    pub const LSTAR: u32 = 0xc000_0082;
    pub const SFMASK: u32 = 0xc000_0084;
    pub const KERNEL_GS_BASE: u32 = 0xc000_0102;
}

/// RFLAGS.IF.
const INTERRUPTS_ON: u64 = 1 << 9;

/// What the kernel finds by GS: its stack pointer, and place for ring 3's.
#[repr(C)]
struct Area {
    kernel: AtomicU64,
    user: AtomicU64,
}

static AREA: Area = Area { kernel: AtomicU64::new(0), user: AtomicU64::new(0) };

/// Prepares system calls.
pub fn prepare_syscalls() {
    let star = u64::from(USER_BASE) << 48 | u64::from(KERNEL_CODE) << 32;
    write_msr(msr::STAR, star);
    write_msr(msr::LSTAR, entry as *const () as u64);
    write_msr(msr::SFMASK, INTERRUPTS_ON);
    write_msr(msr::KERNEL_GS_BASE, (&raw const AREA) as u64);
}

/// Goes to ring 3, where a system call is measured. Returns its ticks. Ring 3 runs with interrupts off: there is no stack for
/// them.
#[unsafe(naked)]
pub extern "C" fn syscall() -> u32 {
    naked_asm!(
        "push rbp",
        "push rbx",
        "push r12",
        "push r13",
        "push r14",
        "push r15",
        "mov [rip + {area}], rsp",
        "mov rax, rsp",
        "lea rcx, [rip + 2f]",
        "push {data}",
        "push rax",
        "push 2",
        "push {code}",
        "push rcx",
        "iretq",
        "2: rdtsc",
        "mov r15d, eax",
        "xor eax, eax",
        "syscall",
        "rdtsc",
        "sub eax, r15d",
        "mov edi, eax",
        "mov eax, 1",
        "syscall",
        "ud2",
        area = sym AREA,
        data = const USER_DATA,
        code = const USER_CODE,
    )
}

/// Where SYSCALL goes. System call 0 does nothing; 1 ends ring 3.
#[unsafe(naked)]
unsafe extern "C" fn entry() {
    naked_asm!(
        "swapgs",
        "mov gs:[8], rsp",
        "mov rsp, gs:[0]",
        "test eax, eax",
        "jnz 2f",
        "mov rsp, gs:[8]",
        "swapgs",
        "sysretq",
        "2: swapgs",
        "mov eax, edi",
        "pop r15",
        "pop r14",
        "pop r13",
        "pop r12",
        "pop rbx",
        "pop rbp",
        "sti",
        "ret",
    )
}

/// A context that does not run: its stack pointer, and its tables.
#[repr(C)]
struct Context {
    stack: u64,
    tables: u64,
}

const NOBODY: Context = Context { stack: 0, tables: 0 };

/// The context that measures, and the other one.
static mut CONTEXTS: [Context; 2] = [NOBODY; 2];
/// The other one's tables; what they map is the same.
static mut OTHER_ROOT: Entries<512> = Entries([0; 512]);
/// The other one's stack.
static mut OTHER_STACK: Entries<512> = Entries([0; 512]);
/// Low half of the counter when the other one went on.
static SWITCHED: AtomicU32 = AtomicU32::new(0);

/// Words of a context's stack: the registers that it keeps, and where it goes on.
const FRAME: usize = 7;

/// Prepares context switches.
pub fn prepare_contexts() {
    // SAFETY: these statics are for contexts alone, and the other one does not run yet; the tables have one entry.
    unsafe {
        OTHER_ROOT.0[0] = ROOT.0[0];
        OTHER_STACK.0[512 - 1] = other as *const () as u64;
        let stack = addr_of_mut!(OTHER_STACK) as u64 + (512 - FRAME as u64) * 8;
        CONTEXTS[0].tables = addr_of_mut!(ROOT) as u64;
        CONTEXTS[1] = Context { stack, tables: addr_of_mut!(OTHER_ROOT) as u64 };
    }
}

/// Leaves the context `from` for `to`.
#[unsafe(naked)]
unsafe extern "C" fn switch(from: *mut Context, to: *mut Context) {
    naked_asm!(
        "push rbp",
        "push rbx",
        "push r12",
        "push r13",
        "push r14",
        "push r15",
        "mov [rdi], rsp",
        "mov rax, [rsi + 8]",
        "mov cr3, rax",
        "mov rsp, [rsi]",
        "pop r15",
        "pop r14",
        "pop r13",
        "pop r12",
        "pop rbx",
        "pop rbp",
        "ret",
    )
}

/// What the other context does.
#[unsafe(naked)]
unsafe extern "C" fn other() {
    naked_asm!(
        "2: rdtsc",
        "mov [rip + {switched}], eax",
        "lea rsi, [rip + {contexts}]",
        "lea rdi, [rsi + {size}]",
        "call {switch}",
        "jmp 2b",
        switched = sym SWITCHED,
        contexts = sym CONTEXTS,
        size = const size_of::<Context>(),
        switch = sym switch,
    )
}

/// Ticks from before a switch to the other context's next instruction.
pub fn context_switch() -> u32 {
    let start: u32;
    // SAFETY: the other context comes back; what it does not keep is named.
    unsafe {
        asm!(
            "rdtsc",
            "mov r15d, eax",
            "call {switch}",
            switch = sym switch,
            in("rdi") &raw mut CONTEXTS[0],
            in("rsi") &raw mut CONTEXTS[1],
            out("r15") start,
            clobber_abi("C"),
        );
    }
    SWITCHED.load(Ordering::Relaxed).wrapping_sub(start)
}

/// Vector of page faults.
const PAGE_FAULT: u8 = 14;
/// The page that faults; the 2 MiB from here on have a table of their own.
pub const FAULTING: u64 = 0x8000_0000;

/// The table.
static mut FAULT_TABLE: Entries<512> = Entries([0; 512]);
/// The page behind it.
static mut FAULT_PAGE: Entries<512> = Entries([0; 512]);

/// Prepares page faults.
pub fn prepare_faults() {
    let table = &raw const FAULT_TABLE as u64 | u64::from(TABLE);
    // SAFETY: nothing was accessed there yet.
    unsafe { (&raw mut DIRECTORIES.0[(FAULTING >> 21) as usize]).write_volatile(table) };
    handle(PAGE_FAULT, fault);
}

/// Maps the page where the fault was.
#[unsafe(naked)]
unsafe extern "C" fn fault() {
    naked_asm!(
        "push rax",
        "push rcx",
        "mov rax, cr2",
        "shr rax, 12",
        "and eax, 511",
        "lea rcx, [rip + {page}]",
        "or rcx, {rights}",
        "mov [{table} + rax * 8], rcx",
        "pop rcx",
        "pop rax",
        "add rsp, 8",
        "iretq",
        page = sym FAULT_PAGE,
        rights = const TABLE,
        table = sym FAULT_TABLE,
    )
}

/// Takes the page away.
pub fn unmap() {
    // SAFETY: the fault handler maps it again.
    unsafe {
        (&raw mut FAULT_TABLE.0[0]).write_volatile(0);
        asm!("invlpg [{}]", in(reg) FAULTING, options(nostack));
    }
}
