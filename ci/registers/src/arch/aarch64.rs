//! AArch64: what EL1 and EL0 can write without a trap (`hypervisor/src/arch/aarch64/virt`).

use super::Failure;
use abi::boot::{BootInfo, ROOT_DOMAIN, ROOT_FREE, ROOT_SPACE};
use abi::syscall::SpaceKind;
use abi::vcpu::aarch64::{CONTROL_HALT, Groups, VcpuState};
use abi::vcpu::{EXIT_KINDS, ExitKind, exit_kind};
use abi::{Op, Rights, Selector};
use core::arch::{asm, naked_asm};
use core::sync::atomic::{AtomicU64, Ordering};
use rt::arch::clean_to_memory;
use rt::syscall::{self, Deadline, MapParameters, Time, VcpuParameters};
use trial::{Stack, create_thread};

const FREE: u32 = ROOT_FREE.0 + 64;
const THREAD: Selector = Selector(FREE);
const DONE: Selector = Selector(FREE + 1);
const MEMORY: Selector = Selector(FREE + 2);

/// Selectors of a guest.
const fn of(guest: u64, number: u32) -> Selector {
    Selector(FREE + 64 + guest as u32 * 64 + number)
}
const SPACE: u32 = 0;
const CODE_MAPPING: u32 = 1;
const VCPU: u32 = 2;
const SCHED: u32 = 3;
const KICK: u32 = 4;
const PORTALS: u32 = 16;

const UTCB: u64 = 0x5000_2000;
/// State page of guest 0; that of guest 1 is the next.
const STATE: u64 = 0x5000_4000;
/// The guests' code here and, there, at [`CODE`]. They have no data.
const WINDOW: u64 = 0x5010_0000;
const SIZE: u64 = 0x4000;
const CODE: u64 = 0x1000;

/// Turns that each guest takes.
const ROUNDS: u64 = 200;

static HANDLER_STACK: Stack = Stack::zeroed();

/// What the guests say with HVC.
const YIELD: u64 = 1;
const CHANGED: u64 = 2;
const FINISHED: u64 = 3;

static FINISHED_GUESTS: AtomicU64 = AtomicU64::new(0);
/// Guest + 1, register, expected, found; or kind of exit + 100 in the first.
static FAILURE: [AtomicU64; 4] = [const { AtomicU64::new(0) }; 4];
/// Which of the monitor's own checks failed, plus one.
static MONITOR: AtomicU64 = AtomicU64::new(0);
const CHECKS: [&str; 4] = [
    "unaligned access",
    "byte order",
    "thread pointer",
    "counter",
];

/// The guest: x20 is its seed, x21 the turns left, x22 whether pointer authentication is there, x23 whether the interrupt
/// controller's CPU interface is in system registers, x26 and x27 whether RAS and SME are there. The pattern of a register is the seed, rotated by the register's number, with
/// the bits of a mask.
#[unsafe(naked)]
extern "C" fn guest() -> ! {
    naked_asm!(
        r#"
            .arch_extension fp
            .arch_extension simd
            .macro pattern number, mask
            movz    x3, #(\mask & 0xffff)
            movk    x3, #(\mask >> 16 & 0xffff), lsl #16
            movk    x3, #(\mask >> 32 & 0xffff), lsl #32
            movk    x3, #(\mask >> 48 & 0xffff), lsl #48
            ror     x1, x20, #\number
            and     x1, x1, x3
            .endm
            .macro put register, number, mask
            pattern \number, \mask
            msr     \register, x1
            .endm
            .macro get register, number, mask
            pattern \number, \mask
            mov     x0, #\number
            mrs     x2, \register
            and     x2, x2, x3
            cmp     x1, x2
            b.ne    90f
            .endm
            // A register that CPUs may have without any bit.
            .macro get_or_zero register, number, mask
            pattern \number, \mask
            mov     x0, #\number
            mrs     x2, \register
            cbz     x2, 91f
            cmp     x1, x2
            b.ne    90f
        91:
            .endm
            .macro general register, number
            ror     \register, x20, #\number
            .endm
            .macro same register, number
            mov     x0, #(100 + \number)
            ror     x1, x20, #\number
            mov     x2, \register
            cmp     x1, x2
            b.ne    90f
            .endm

            mov     x1, #(3 << 20)
            msr     cpacr_el1, x1
            isb
        2:  // SCTLR_EL1: bits that act on EL0, as the seed has them: alignment checks, byte order, cache maintenance and
            // waiting at EL0.
            movz    x1, #0x0800
            movk    x1, #0x30d0, lsl #16
            and     x2, x20, #(1 << 24)
            orr     x1, x1, x2
            and     x2, x20, #(1 << 4)
            orr     x1, x1, x2
            and     x2, x20, #(1 << 1)
            orr     x1, x1, x2
            msr     sctlr_el1, x1
            mov     x24, x1
            put sp_el0, 1, 0xffffffffffffffff
            put elr_el1, 2, 0xffffffffffffffff
            put spsr_el1, 3, 0xf00003df
            put esr_el1, 4, 0xffffffff
            put far_el1, 5, 0xffffffffffffffff
            put ttbr0_el1, 6, 0xfffffffffffffffe
            put ttbr1_el1, 7, 0xfffffffffffffffe
            put tcr_el1, 8, 0x7ff0ff3f3f
            put mair_el1, 9, 0xffffffffffffffff
            put vbar_el1, 10, 0xfffffffff800
            put contextidr_el1, 11, 0xffffffff
            put tpidr_el0, 12, 0xffffffffffffffff
            put tpidrro_el0, 13, 0xffffffffffffffff
            put tpidr_el1, 14, 0xffffffffffffffff
            put csselr_el1, 15, 0x6
            put cntkctl_el1, 16, 0x3ff
            put cntv_cval_el0, 18, 0xffffffffffffffff
            put afsr0_el1, 19, 0xffffffff
            put afsr1_el1, 20, 0xffffffff
            put amair_el1, 21, 0xffffffffffffffff
            put par_el1, 22, 0xfffffffff000
            // CNTV_CTL_EL0: masked, enabled or not.
            and     x1, x20, #1
            orr     x1, x1, #2
            msr     cntv_ctl_el0, x1
            mov     x1, x20
            mov     sp, x1
            cbz     x22, 3f
            put S3_0_C2_C1_0, 30, 0xffffffffffffffff
            put S3_0_C2_C1_1, 31, 0xffffffffffffffff
            put S3_0_C2_C1_2, 32, 0xffffffffffffffff
            put S3_0_C2_C1_3, 33, 0xffffffffffffffff
            put S3_0_C2_C2_0, 34, 0xffffffffffffffff
            put S3_0_C2_C2_1, 35, 0xffffffffffffffff
            put S3_0_C2_C2_2, 36, 0xffffffffffffffff
            put S3_0_C2_C2_3, 37, 0xffffffffffffffff
            put S3_0_C2_C3_0, 38, 0xffffffffffffffff
            put S3_0_C2_C3_1, 39, 0xffffffffffffffff
        3:  cbz     x26, 7f
            // DISR_EL1, which is VDISR_EL2 here: A, IDS, ISS.
            put S3_0_C12_C1_1, 40, 0x81ffffff
        7:  cbz     x27, 8f
            put S3_3_C13_C0_5, 41, 0xffffffffffffffff
        8:  cbz     x23, 4f
            // ICC_PMR_EL1: five bits are there at least. ICC_IGRPEN1_EL1.
            put     S3_0_C4_C6_0, 50, 0xf8
            put     S3_0_C12_C12_7, 51, 0x1
        4:  // Vector registers, FPCR's rounding mode, FPSR's flags.
            .irp number, 0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23,24,25,26,27,28,29,30,31
            ror     x1, x20, #\number
            mov     v\number\().d[0], x1
            eor     x1, x1, #0xff
            mov     v\number\().d[1], x1
            .endr
            put     fpcr, 52, 0xc00000
            put     fpsr, 53, 0x800009f
            general x5, 5
            general x18, 18
            general x25, 25
            general x30, 30
            isb
            hvc     #{yield_}

            same    x5, 5
            same    x18, 18
            same    x25, 25
            same    x30, 30
            mov     x0, #60
            mrs     x2, sctlr_el1
            mov     x1, x24
            cmp     x1, x2
            b.ne    90f
            get sp_el0, 1, 0xffffffffffffffff
            get elr_el1, 2, 0xffffffffffffffff
            get spsr_el1, 3, 0xf00003df
            get esr_el1, 4, 0xffffffff
            get far_el1, 5, 0xffffffffffffffff
            get ttbr0_el1, 6, 0xfffffffffffffffe
            get ttbr1_el1, 7, 0xfffffffffffffffe
            get tcr_el1, 8, 0x7ff0ff3f3f
            get mair_el1, 9, 0xffffffffffffffff
            get vbar_el1, 10, 0xfffffffff800
            get contextidr_el1, 11, 0xffffffff
            get tpidr_el0, 12, 0xffffffffffffffff
            get tpidrro_el0, 13, 0xffffffffffffffff
            get tpidr_el1, 14, 0xffffffffffffffff
            get csselr_el1, 15, 0x6
            get cntkctl_el1, 16, 0x3ff
            get cntv_cval_el0, 18, 0xffffffffffffffff
            get_or_zero afsr0_el1, 19, 0xffffffff
            get_or_zero afsr1_el1, 20, 0xffffffff
            get_or_zero amair_el1, 21, 0xffffffffffffffff
            get par_el1, 22, 0xfffffffff000
            mov     x0, #61
            and     x1, x20, #1
            orr     x1, x1, #2
            mrs     x2, cntv_ctl_el0
            and     x2, x2, #3
            cmp     x1, x2
            b.ne    90f
            mov     x0, #62
            mov     x1, x20
            mov     x2, sp
            cmp     x1, x2
            b.ne    90f
            cbz     x22, 5f
            get S3_0_C2_C1_0, 30, 0xffffffffffffffff
            get S3_0_C2_C1_1, 31, 0xffffffffffffffff
            get S3_0_C2_C1_2, 32, 0xffffffffffffffff
            get S3_0_C2_C1_3, 33, 0xffffffffffffffff
            get S3_0_C2_C2_0, 34, 0xffffffffffffffff
            get S3_0_C2_C2_1, 35, 0xffffffffffffffff
            get S3_0_C2_C2_2, 36, 0xffffffffffffffff
            get S3_0_C2_C2_3, 37, 0xffffffffffffffff
            get S3_0_C2_C3_0, 38, 0xffffffffffffffff
            get S3_0_C2_C3_1, 39, 0xffffffffffffffff
        5:  cbz     x26, 7f
            get S3_0_C12_C1_1, 40, 0x81ffffff
        7:  cbz     x27, 8f
            get S3_3_C13_C0_5, 41, 0xffffffffffffffff
        8:  cbz     x23, 6f
            get     S3_0_C4_C6_0, 50, 0xf8
            get     S3_0_C12_C12_7, 51, 0x1
        6:  .irp number, 0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23,24,25,26,27,28,29,30,31
            mov     x0, #(200 + \number)
            ror     x1, x20, #\number
            mov     x2, v\number\().d[0]
            cmp     x1, x2
            b.ne    90f
            eor     x1, x1, #0xff
            mov     x2, v\number\().d[1]
            cmp     x1, x2
            b.ne    90f
            .endr
            get     fpcr, 52, 0xc00000
            get     fpsr, 53, 0x800009f
            movz    x1, #0x7c15
            movk    x1, #0x7f4a, lsl #16
            movk    x1, #0x79b9, lsl #32
            movk    x1, #0x9e37, lsl #48
            add     x20, x20, x1
            subs    x21, x21, #1
            b.ne    2b
            hvc     #{finished}
        90: hvc     #{changed}
            b       .
            .global registers_guest_end
        registers_guest_end:
        "#,
        yield_ = const YIELD,
        finished = const FINISHED,
        changed = const CHANGED,
    )
}

unsafe extern "C" {
    static registers_guest_end: u8;
}

/// The handler of all exits: the words go on to [`exit`].
#[unsafe(naked)]
extern "C" fn monitor() -> ! {
    naked_asm!(
        "2: mov x0, x1",
        "mov x1, x2",
        "mov x2, x3",
        "bl {exit}",
        "mov x2, x0",
        "mov x0, #{reply}",
        "svc #0",
        "b 2b",
        exit = sym exit,
        reply = const Op::ReplyWait as u32,
    )
}

fn state(guest: u64) -> *mut VcpuState {
    (STATE + guest * 0x1000) as *mut VcpuState
}

/// An exit of `guest`, the portal's identity; returns the groups that changed.
extern "C" fn exit(guest: u64, kind: u64, info: u64) -> u64 {
    check_monitor();
    let page = state(guest);
    let register = |index: usize| {
        // SAFETY: the kernel has mapped the state page there; the vCPU waits for this answer.
        unsafe { (&raw const (*page).gpr[index]).read_volatile() }
    };
    match exit_kind(kind) {
        Some(ExitKind::Startup) => {
            // SAFETY: as above.
            unsafe { page.write_volatile(initial_state(guest)) };
            return Groups::all().difference(Groups::GIC).bits();
        }
        Some(ExitKind::Kick) => return 0,
        Some(ExitKind::Hypercall) => match info & 0xffff {
            YIELD => {}
            FINISHED => {
                if FINISHED_GUESTS.fetch_add(1, Ordering::Relaxed) == 1 {
                    let _ = syscall::signal(DONE);
                }
            }
            _ => fail([guest + 1, register(0), register(1), register(2)]),
        },
        kind => fail([100 + guest, kind.map_or(u64::MAX, |k| k as u64), info, 0]),
    }
    let _ = syscall::signal(of(1 - guest, KICK));
    // SAFETY: as above.
    unsafe { (&raw mut (*page).controls).write_volatile(CONTROL_HALT) };
    Groups::CONTROLS.bits()
}

fn fail(words: [u64; 4]) {
    if FAILURE[0].load(Ordering::Relaxed) == 0 {
        for (slot, word) in FAILURE.iter().zip(words) {
            slot.store(word, Ordering::Relaxed);
        }
    }
    let _ = syscall::signal(DONE);
}

/// The state that a guest could have left to its monitor.
fn check_monitor() {
    static BYTES: [u8; 9] = [1, 2, 3, 4, 5, 6, 7, 8, 9];
    let mut failed = None;
    // SAFETY: within the array; the address is odd, as it should be here.
    let word = unsafe { (BYTES.as_ptr().add(1) as *const u64).read_unaligned() };
    let hidden = core::hint::black_box(BYTES.as_ptr()) as u64;
    let direct: u64;
    // SAFETY: reads eight bytes of the array, not aligned: the array may begin anywhere, so one of these is.
    unsafe {
        asm!("ldr {}, [{}, #1]", out(reg) direct, in(reg) hidden, options(readonly, nostack))
    };
    if word != direct {
        failed = Some(0);
    }
    if direct != 0x0908_0706_0504_0302 {
        failed = Some(1);
    }
    let pointer: u64;
    // SAFETY: reads a register of EL0.
    unsafe { asm!("mrs {}, tpidr_el0", out(reg) pointer, options(nomem, nostack)) };
    let read_only: u64;
    // SAFETY: as above.
    unsafe { asm!("mrs {}, tpidrro_el0", out(reg) read_only, options(nomem, nostack)) };
    if pointer | read_only != 0 {
        failed = Some(2);
    }
    if rt::arch::counter() == 0 {
        failed = Some(3);
    }
    if let Some(number) = failed {
        MONITOR.store(number + 1, Ordering::Relaxed);
        let _ = syscall::signal(DONE);
    }
}

/// Features of the CPU that the guest is told of: set by [`run`].
static KEYS: AtomicU64 = AtomicU64::new(0);
static SYSTEM_REGISTERS: AtomicU64 = AtomicU64::new(0);
static ERRORS: AtomicU64 = AtomicU64::new(0);
static MATRICES: AtomicU64 = AtomicU64::new(0);

fn initial_state(guest: u64) -> VcpuState {
    let mut gpr = [0; abi::vcpu::aarch64::GPRS];
    gpr[20] = 0x0123_4567_89ab_cdef ^ guest.wrapping_mul(0xf0f0_f0f0_f0f0_f0f1);
    gpr[21] = ROUNDS;
    gpr[22] = KEYS.load(Ordering::Relaxed);
    gpr[23] = SYSTEM_REGISTERS.load(Ordering::Relaxed);
    gpr[26] = ERRORS.load(Ordering::Relaxed);
    gpr[27] = MATRICES.load(Ordering::Relaxed);
    let state = trial::initial_state(CODE);
    VcpuState {
        gpr,
        vmpidr: state.vmpidr | guest,
        ..state
    }
}

/// Runs both guests; returns the turns of each.
pub fn run(info: &BootInfo) -> Result<u64, Failure> {
    // ID_AA64ISAR1_EL1.APA, API; ID_AA64ISAR2_EL1.APA3.
    let isar1 = info.id_registers[6 * 8 + 1];
    let isar2 = info.id_registers[6 * 8 + 2];
    let keys = isar1 >> 4 & 0xff != 0 || isar2 >> 12 & 0xf != 0;
    KEYS.store(keys.into(), Ordering::Relaxed);
    SYSTEM_REGISTERS.store((info.gic_version == 3).into(), Ordering::Relaxed);
    // ID_AA64PFR0_EL1.RAS, ID_AA64PFR1_EL1.SME. Where fine-grained traps are, TPIDR2_EL0 traps (HFGRTR_EL2.nTPIDR2_EL0).
    let (pfr0, pfr1) = (info.id_registers[4 * 8], info.id_registers[4 * 8 + 1]);
    let fine_traps = info.id_registers[7 * 8] >> 56 & 0xf != 0;
    ERRORS.store((pfr0 >> 28 & 0xf != 0).into(), Ordering::Relaxed);
    MATRICES.store(
        (pfr1 >> 24 & 0xf != 0 && !fine_traps).into(),
        Ordering::Relaxed,
    );
    let memory = trial::ram(info, SIZE)?;
    let map = |address, rights| MapParameters {
        offset: 0,
        address,
        size: SIZE,
        rights,
    };
    syscall::map(memory, ROOT_SPACE, MEMORY, &map(WINDOW, Rights::RW))?;
    let start = guest as *const () as usize;
    let length = (&raw const registers_guest_end).addr() - start;
    for i in 0..length.min((SIZE - CODE) as usize) {
        // SAFETY: code can be read; the window was mapped just now, and is used for nothing else.
        unsafe {
            let byte = (start as *const u8).add(i).read_volatile();
            ((WINDOW + CODE) as *mut u8).add(i).write_volatile(byte);
        }
    }
    clean_to_memory(WINDOW as usize..(WINDOW + SIZE) as usize);
    syscall::create_notification(ROOT_DOMAIN, DONE)?;
    create_thread(THREAD, UTCB, monitor, HANDLER_STACK.top())?;
    for guest in 0..2 {
        let space = of(guest, SPACE);
        syscall::create_space(ROOT_DOMAIN, space, SpaceKind::Guest)?;
        let rights = Rights::READ | Rights::EXEC;
        syscall::map(memory, space, of(guest, CODE_MAPPING), &map(0, rights))?;
        for kind in 0..EXIT_KINDS {
            let portal = of(guest, PORTALS + kind);
            syscall::create_portal(ROOT_DOMAIN, portal, THREAD, guest, 0)?;
        }
        let vcpu = VcpuParameters {
            domain: ROOT_DOMAIN,
            guest_space: space,
            cpu: 0,
            host_space: ROOT_SPACE,
            state: STATE + guest * 0x1000,
            portals: of(guest, PORTALS),
        };
        syscall::create_vcpu(ROOT_DOMAIN, of(guest, VCPU), &vcpu)?;
        syscall::create_notification(ROOT_DOMAIN, of(guest, KICK))?;
        syscall::bind_kick(of(guest, VCPU), of(guest, KICK))?;
        let time = Time {
            priority: 10,
            budget: 0,
            period: 0,
        };
        syscall::create_sched(ROOT_DOMAIN, of(guest, SCHED), 0, time)?;
    }
    for guest in 0..2 {
        syscall::bind_sched(of(guest, SCHED), of(guest, VCPU))?;
    }
    syscall::wait(DONE, Deadline::NEVER)?;
    if let Some(what) = MONITOR.load(Ordering::Relaxed).checked_sub(1) {
        return Err(Failure::Monitor(CHECKS[what as usize % CHECKS.len()]));
    }
    let [first, second, third, fourth] = [0, 1, 2, 3].map(|i| FAILURE[i].load(Ordering::Relaxed));
    match first {
        0 => Ok(ROUNDS),
        100.. => Err(Failure::Exit(first - 100, second, third)),
        guest => Err(Failure::Changed {
            guest: guest - 1,
            register: second,
            expected: third,
            found: fourth,
        }),
    }
}
