//! x86-64: what a guest can write without an exit (`hypervisor/src/arch/x86_64/virt/table.rs`).

mod guest;

use crate::turns::{CODE, Harm, ROUNDS, Request, exit, seed};
use abi::Op;
use abi::boot::{BootInfo, Virtualization};
use abi::syscall::DoorbellKind;
use abi::vcpu::ExitKind;
use abi::vcpu::x86_64::{
    CONTROL_HALT, EVENT_ERROR, EVENT_EXCEPTION, EVENT_VALID, RAX, RBX, RCX, RDX, RSP, Segment,
    Table,
};
use core::arch::x86_64::__cpuid;
use core::arch::{asm, naked_asm};
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use guest::{CHANGED, FINISHED, REAL, REAL_GATES, STACK, TABLES};
use rt::ipc::Words;
use rt::syscall::DoorbellParameters;

pub use abi::vcpu::x86_64::{Groups, VcpuState};
pub use guest::code;

/// Where guests ring, while they go through their code by single steps.
pub const DOORBELL: Option<DoorbellParameters> =
    Some(DoorbellParameters { kind: DoorbellKind::Ports, first: guest::DOORBELL, size: 1 });
/// Groups that exits save: the instruction pointer, as VMCALL leaves it before itself.
pub const SAVED: Groups = Groups::RIP;
/// Groups that a vCPU starts with.
pub const STARTUP: Groups = Groups::all();

/// What [`check_monitor`] looks at.
pub const CHECKS: [&str; 7] = [
    "witness",
    "selectors",
    "segment bases",
    "TSC_AUX",
    "XCR0",
    "another program's TSC_AUX",
    "another program's XCR0",
];

/// The handler of all exits: the words go on to [`exit`].
#[unsafe(naked)]
pub extern "C" fn monitor() -> ! {
    naked_asm!(
        // The stack is aligned at the call; the words are in rsi and rdx, the identity in rdi.
        "2: call {exit}",
        "mov rsi, rax",
        "mov eax, {reply}",
        "syscall",
        "jmp 2b",
        exit = sym exit,
        reply = const Op::ReplyWait as u32,
    )
}

/// What a guest asks for: all its registers are patterns when it yields, so RAX is none of the other requests then.
///
/// # Safety
/// The state page is mapped at `page`.
pub unsafe fn request(page: *mut VcpuState, _info: u64) -> Request {
    // SAFETY: the caller's promise.
    let register = |index: usize| unsafe { (&raw const (*page).gpr[index]).read_volatile() };
    match register(RAX) {
        FINISHED => Request::Finished,
        CHANGED => Request::Changed([RCX, RDX, RBX].map(register)),
        _ => Request::Yield,
    }
}

/// Has the vCPU go on behind the three bytes of its VMCALL or VMMCALL.
///
/// # Safety
/// As for [`request`].
pub unsafe fn go_on(page: *mut VcpuState) -> Groups {
    // SAFETY: the caller's promise.
    unsafe {
        let rip = &raw mut (*page).rip;
        rip.write_volatile(rip.read_volatile() + 3);
    }
    Groups::RIP
}

/// Has the vCPU wait for its next turn, and go on then.
///
/// # Safety
/// As for [`request`].
pub unsafe fn halt(page: *mut VcpuState) -> Groups {
    // SAFETY: the caller's promise.
    unsafe {
        (&raw mut (*page).controls).write_volatile(CONTROL_HALT);
        go_on(page) | Groups::EVENTS
    }
}

static SVM: AtomicBool = AtomicBool::new(false);
/// RDTSCP is there.
static HAS_TSC_AUX: AtomicBool = AtomicBool::new(false);
/// XCR0 of the machine; 0: there is none.
static XCR0: AtomicU64 = AtomicU64::new(0);
/// DS, ES, FS and GS of the monitor, 16 bits each.
static SELECTORS: AtomicU64 = AtomicU64::new(0);

/// A guest's TSC_AUX.
fn tsc_aux(guest: u64) -> u64 {
    seed(guest) >> 32
}

/// A guest's XCR0: one has all components, the other x87, SSE and AVX.
fn xcr0(guest: u64) -> u64 {
    let all = XCR0.load(Ordering::Relaxed);
    if guest == 0 { all } else { all & 7 }
}

fn selectors() -> u64 {
    let [ds, es, fs, gs]: [u64; 4];
    // SAFETY: reads registers.
    unsafe {
        asm!("mov {:r}, ds", out(reg) ds, options(nomem, nostack, preserves_flags));
        asm!("mov {:r}, es", out(reg) es, options(nomem, nostack, preserves_flags));
        asm!("mov {:r}, fs", out(reg) fs, options(nomem, nostack, preserves_flags));
        asm!("mov {:r}, gs", out(reg) gs, options(nomem, nostack, preserves_flags));
    }
    ds | es << 16 | fs << 32 | gs << 48
}

/// Looks for state that a guest could have left to its monitor.
pub fn check_monitor() -> Option<Harm> {
    let harm = |check, found| Some(Harm { check, found });
    // VMX exits make null selectors of them.
    let (found, expected) = (selectors(), SELECTORS.load(Ordering::Relaxed));
    let differ = |shift: u32| {
        let part = found >> shift & 0xffff;
        part != 0 && part != expected >> shift & 0xffff
    };
    if [0, 16, 32, 48].into_iter().any(differ) {
        return harm(1, found);
    }
    static WORD: AtomicU64 = AtomicU64::new(0);
    WORD.fetch_add(1, Ordering::Relaxed);
    let address = WORD.as_ptr();
    let [by_fs, by_gs]: [u64; 2];
    // SAFETY: reads a static of this program, as the bases are zero; if they are not, it ends here.
    unsafe {
        asm!("mov {}, fs:[{}]", out(reg) by_fs, in(reg) address, options(readonly, nostack, preserves_flags));
        asm!("mov {}, gs:[{}]", out(reg) by_gs, in(reg) address, options(readonly, nostack, preserves_flags));
    }
    let word = WORD.load(Ordering::Relaxed);
    if by_fs != word || by_gs != word {
        return harm(2, by_fs);
    }
    // These it has given to its guests itself: a vCPU stays loaded while only the monitor runs.
    let given = |value, of: fn(u64) -> u64| (0..2).any(|guest| value == of(guest));
    let words = look(features());
    if words[0] != 0 && !given(words[0], tsc_aux) {
        return harm(3, words[0]);
    }
    if words[1] != XCR0.load(Ordering::Relaxed) && !given(words[1], xcr0) {
        return harm(4, words[1]);
    }
    None
}

/// RDTSCP is there, for [`look`].
const LOOK_AT_TSC_AUX: u64 = 1 << 0;
/// XGETBV is there.
const LOOK_AT_XCR0: u64 = 1 << 1;

fn features() -> u64 {
    let mut features = 0;
    if HAS_TSC_AUX.load(Ordering::Relaxed) {
        features |= LOOK_AT_TSC_AUX;
    }
    if XCR0.load(Ordering::Relaxed) != 0 {
        features |= LOOK_AT_XCR0;
    }
    features
}

macro_rules! look {
    () => {
        "mov r10, rsi; xor r8d, r8d; xor r9d, r9d; test r10b, {tsc_aux}; jz 3f; rdtscp; mov r8, rcx; \
         3: test r10b, {xcr0}; jz 4f; xor ecx, ecx; xgetbv; mov r9d, edx; shl r9, 32; or r9, rax; 4:"
    };
}

/// TSC_AUX and XCR0, as far as `features` are there.
fn look(features: u64) -> [u64; 2] {
    let [tsc_aux, xcr0]: [u64; 2];
    // SAFETY: reads registers that are there.
    unsafe {
        asm!(look!(), tsc_aux = const LOOK_AT_TSC_AUX, xcr0 = const LOOK_AT_XCR0, in("rsi") features,
            out("r8") tsc_aux, out("r9") xcr0, out("r10") _, out("rax") _, out("rcx") _, out("rdx") _,
            options(nomem, nostack))
    };
    [tsc_aux, xcr0]
}

/// Replies to each call with what [`look`] finds with its first word.
///
/// It asks first for what a selector of a local descriptor table names. There is none: where there is one at address 0, as
/// after reset, that is memory of this program, which is not mapped, so it ends here.
#[unsafe(naked)]
pub extern "C" fn witness() -> ! {
    naked_asm!(
        "2:",
        "mov ecx, 4",
        "lar eax, ecx",
        look!(),
        "mov rsi, r8",
        "mov rdx, r9",
        "mov eax, {reply}",
        "syscall",
        "jmp 2b",
        tsc_aux = const LOOK_AT_TSC_AUX,
        xcr0 = const LOOK_AT_XCR0,
        reply = const Op::ReplyWait as u32,
    )
}

/// The message to [`witness`].
pub fn ask_witness() -> Words {
    [features(), 0, 0, 0, 0, 0, 0, 0]
}

/// Looks at what [`witness`] has replied: the machine's values, as it was given no others.
pub fn check_witness([tsc_aux, xcr0, ..]: Words) -> Option<Harm> {
    let harm = |check, found| Some(Harm { check, found });
    if tsc_aux != 0 {
        return harm(5, tsc_aux);
    }
    if xcr0 != XCR0.load(Ordering::Relaxed) {
        return harm(6, xcr0);
    }
    None
}

/// The state that a guest is given after an exit of `kind`, if that is what is due: first it is in real mode, which has no error
/// codes, with an exception that has one elsewhere. When its handler has said where it has put the stack pointer, it starts again.
///
/// # Safety
/// As for [`request`].
pub unsafe fn next_state(guest: u64, kind: ExitKind, page: *const VcpuState) -> Option<VcpuState> {
    match kind {
        ExitKind::Startup if guest == ENDLESS => Some(endless_state()),
        ExitKind::Startup => Some(real_state(guest)),
        ExitKind::Cpuid => {
            // SAFETY: the caller's promise.
            let pointer = unsafe { (&raw const (*page).gpr[RAX]).read_volatile() };
            // FLAGS, CS and IP, of 16 bits each.
            (pointer == STACK - 6).then(|| state(guest))
        }
        _ => None,
    }
}

/// Real mode, with general protection of a selector on its way.
fn real_state(guest: u64) -> VcpuState {
    let data = Segment { access: 0x93, limit: 0xffff, ..Segment::default() };
    let mut gpr = [0; 16];
    gpr[RSP] = STACK;
    VcpuState {
        gpr,
        cr0: 0x10,
        cr4: 0,
        efer: 0,
        inject: EVENT_VALID | EVENT_EXCEPTION | EVENT_ERROR | 13 | 8 << 32,
        cs: Segment { access: 0x9b, ..data },
        ss: data,
        ds: data,
        es: data,
        fs: data,
        gs: data,
        idtr: Table { limit: 4 * REAL_GATES - 1, base: REAL },
        ..state(guest)
    }
}

/// 64-bit mode, on the page tables that come with a guest's code.
fn state(guest: u64) -> VcpuState {
    let state = trial::initial_state(CODE);
    let mut gpr = [0; 16];
    gpr[RAX] = seed(guest);
    gpr[RCX] = ROUNDS;
    gpr[RDX] = tsc_aux(guest);
    gpr[RBX] = xcr0(guest);
    gpr[RSP] = STACK - 64 * guest;
    gpr[8] = SVM.load(Ordering::Relaxed).into();
    gpr[9] = HAS_TSC_AUX.load(Ordering::Relaxed).into();
    gpr[10] = (!is_tcg()).into();
    gpr[11] = if is_tcg() { DR7_LENGTHS } else { DR7_LENGTHS | DR7_FIRST };
    VcpuState {
        gpr,
        cr0: 1 << 31 | state.cr0,
        cr3: TABLES,
        // PAE, OSFXSR, OSXMMEXCPT, OSXSAVE.
        cr4: 0x620 | u64::from(xcr0(guest) != 0) << 18,
        // LME, LMA.
        efer: 0x500,
        xcr0: xcr0(guest) | 1,
        cs: Segment { access: 0xa09b, ..state.cs },
        tsc_aux: tsc_aux(guest),
        ..state
    }
}

/// The guest that gets nowhere: #AC cannot be delivered to it, as that raises #AC (CVE-2015-5307). The processor finds no moment
/// at which it could take an interrupt. QEMU 7.2 has no #AC, there it is an endless loop.
pub const ENDLESS: u64 = 2;

/// Its descriptors and gates, from [`CODE`] on.
const ENDLESS_GDT: u64 = CODE + 16;
const ENDLESS_IDT: u64 = ENDLESS_GDT + 32;
const ENDLESS_GATES: u64 = 18;
/// Code and data of privilege level 3.
const ENDLESS_SEGMENTS: [u16; 2] = [0x0b, 0x13];

/// Writes to its stack, which is not aligned. Each exception goes there again, at the same privilege level.
pub fn endless_code() -> impl Iterator<Item = u8> {
    // PUSH EAX; JMP to itself.
    let code = u64::from_le_bytes([0x50, 0xeb, 0xfe, 0, 0, 0, 0, 0]);
    let descriptors = [0, 0x00cf_fb00_0000_ffff, 0x00cf_f300_0000_ffff, 0];
    let gate = 0xef00 << 32 | u64::from(ENDLESS_SEGMENTS[0]) << 16 | CODE;
    let gates = core::iter::repeat_n(gate, ENDLESS_GATES as usize);
    let words = [code, 0].into_iter().chain(descriptors).chain(gates);
    words.flat_map(u64::to_le_bytes)
}

/// The state in which [`ENDLESS`] starts.
fn endless_state() -> VcpuState {
    const AM: u64 = 1 << 18;
    const AC_AND_IF: u64 = 1 << 18 | 1 << 9;
    let state = trial::initial_state(CODE);
    let mut gpr = [0; 16];
    gpr[RSP] = STACK + 2;
    let data = Segment { selector: ENDLESS_SEGMENTS[1], access: 0xc0f3, ..state.ds };
    VcpuState {
        gpr,
        cr0: state.cr0 | AM,
        rflags: state.rflags | AC_AND_IF,
        cs: Segment { selector: ENDLESS_SEGMENTS[0], access: 0xc0fb, ..state.cs },
        ss: data,
        ds: data,
        es: data,
        fs: data,
        gs: data,
        gdtr: Table { limit: 31, base: ENDLESS_GDT },
        idtr: Table { limit: 8 * ENDLESS_GATES - 1, base: ENDLESS_IDT },
        ..state
    }
}

/// Lengths of the four breakpoints.
const DR7_LENGTHS: u64 = 0xcccc_0000;
/// The first breakpoint is on.
const DR7_FIRST: u64 = 1 << 1;

/// Whether this is QEMU without KVM. In 7.2 at least its VMRUN leaves the PAT alone, and it ends when a guest has a
/// breakpoint on.
fn is_tcg() -> bool {
    let leaf = __cpuid(0x4000_0000);
    let words = [leaf.ebx, leaf.ecx, leaf.edx].map(u32::to_le_bytes);
    words.as_flattened() == b"TCGTCGTCGTCG"
}

/// Notes which registers the CPU has, and what is in those of this program.
pub fn look_at(info: &BootInfo) {
    let svm = info.virtualization == Virtualization::Svm as u32;
    SVM.store(svm, Ordering::Relaxed);
    let has_tsc_aux = __cpuid(0x8000_0001).edx >> 27 & 1 != 0;
    HAS_TSC_AUX.store(has_tsc_aux, Ordering::Relaxed);
    // CPUID.1:ECX.OSXSAVE.
    if __cpuid(1).ecx >> 27 & 1 != 0 {
        XCR0.store(info.xcr0_mask, Ordering::Relaxed);
    }
    SELECTORS.store(selectors(), Ordering::Relaxed);
}
