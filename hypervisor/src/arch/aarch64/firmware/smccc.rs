//! Calls to firmware (SMC Calling Convention, Arm DEN 0028), and what it does against speculation on the CPU's behalf.

use super::super::speculation::{Identity, Measures};
use super::super::sysreg::read;
use abi::boot::Workaround;
use core::arch::asm;
use core::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, Ordering};

/// Whether there is firmware.
static IS_THERE: AtomicBool = AtomicBool::new(false);
/// What firmware offers, as [`abi::boot::BootInfo::workarounds`] has it.
static WORKAROUNDS: AtomicU32 = AtomicU32::new(0);
/// Whether there is a call that guests need.
static SERVES: AtomicBool = AtomicBool::new(false);
/// What the kernel asks firmware to do.
static MEASURES: AtomicU8 = AtomicU8::new(0);
/// Whether there are to be any measures.
static MITIGATES: AtomicBool = AtomicBool::new(true);
const VERSION: u64 = 0x8000_0000;
const ARCH_FEATURES: u64 = 0x8000_0001;
const PSCI_FEATURES: u64 = 0x8400_000a;
/// SMCCC_ARCH_WORKAROUND_1: the branch predictor; 2: store bypass; 3: branch history too.
const WORKAROUND_FUNCTIONS: [u64; 3] = [0x8000_8000, 0x8000_7fff, 0x8000_3fff];
const NOT_SUPPORTED: u64 = u64::MAX;

/// Sets whether there is firmware, and whether the kernel is to take measures at all. Once, before [`enable_on_this_cpu`].
pub fn init(is_there: bool, mitigates: bool) {
    IS_THERE.store(is_there, Ordering::Relaxed);
    MITIGATES.store(mitigates, Ordering::Relaxed);
}

/// Calls firmware; NOT_SUPPORTED without it.
pub(super) fn call(function: u64, first: u64, second: u64, third: u64) -> u64 {
    if !IS_THERE.load(Ordering::Relaxed) {
        return NOT_SUPPORTED;
    }
    let mut result = function;
    // SAFETY: x4 to x17 may change, the rest is preserved (2.6); what firmware does is what the functions named here say.
    unsafe {
        asm!("smc #0", inout("x0") result, inout("x1") first => _, inout("x2") second => _,
             inout("x3") third => _, out("x4") _, out("x5") _, out("x6") _, out("x7") _, out("x8") _,
             out("x9") _, out("x10") _, out("x11") _, out("x12") _, out("x13") _, out("x14") _,
             out("x15") _, out("x16") _, out("x17") _, options(nostack))
    }
    result
}

/// Asks firmware what it does against speculation on this CPU, chooses what the kernel has it do, and has it do what it does for
/// good. The measures are those that any CPU needs, and what guests are told holds on all: before there are guests.
pub fn enable_on_this_cpu() {
    let mut offers = probe();
    let identity = Identity {
        midr: read!("midr_el1"),
        pfr0: read!("id_aa64pfr0_el1"),
        pfr1: read!("id_aa64pfr1_el1"),
        mmfr1: read!("id_aa64mmfr1_el1"),
        firmware: offers,
    };
    let is_first = super::super::current_cpu().index == 0;
    let measures = Measures::choose(&identity, MITIGATES.load(Ordering::Relaxed), is_first);
    MEASURES.fetch_or(measures.bits(), Ordering::Relaxed);
    if offers[1] == Workaround::Needed {
        // Guests do not reach it: it is mitigated for all and always, or for nobody.
        offers[1] = if measures.contains(Measures::STORES) {
            call(WORKAROUND_FUNCTIONS[1], 1, 0, 0);
            Workaround::NotNeeded
        } else {
            Workaround::NotOffered
        };
    }
    if !is_first {
        for (i, offer) in offers.iter_mut().enumerate() {
            *offer = worse(*offer, Workaround::unpack(workarounds(), i));
        }
    }
    let is_needed = |i: usize| offers[i] == Workaround::Needed;
    SERVES.store(is_needed(0) || is_needed(2), Ordering::Relaxed);
    WORKAROUNDS.store(Workaround::pack(offers), Ordering::Relaxed);
}

/// Of the answers of two CPUs, the one that is safe on both: a call that one of them needs, or none that a guest could rely on.
fn worse(one: Workaround, other: Workaround) -> Workaround {
    use Workaround::{Needed, NotNeeded, NotOffered};
    match (one, other) {
        (Needed, _) | (_, Needed) => Needed,
        (NotOffered, _) | (_, NotOffered) => NotOffered,
        (NotNeeded, NotNeeded) => NotNeeded,
    }
}

/// What firmware offers.
fn probe() -> [Workaround; 3] {
    let is_there = |answer: u64| answer as i32 >= 0;
    // Functions of version 1.1 may only be called where PSCI says that there is such a version (7.1).
    if !is_there(call(PSCI_FEATURES, VERSION, 0, 0)) || (call(VERSION, 0, 0, 0) as i32) < 0x1_0001 {
        return [Workaround::NotOffered; 3];
    }
    WORKAROUND_FUNCTIONS.map(|function| match call(ARCH_FEATURES, function, 0, 0) as i32 {
        0 => Workaround::Needed,
        1 => Workaround::NotNeeded,
        _ => Workaround::NotOffered,
    })
}

fn measures() -> Measures {
    Measures::from_bits_truncate(MEASURES.load(Ordering::Relaxed))
}

/// Whether [`separate`] does anything.
pub fn separates() -> bool {
    measures().intersects(Measures::PREDICTOR | Measures::HISTORY)
}

/// Has what ran before not steer the branches of what comes to run.
pub fn separate() {
    let measures = measures();
    if measures.contains(Measures::HISTORY) {
        call(WORKAROUND_FUNCTIONS[2], 0, 0, 0);
    } else if measures.contains(Measures::PREDICTOR) {
        call(WORKAROUND_FUNCTIONS[0], 0, 0, 0);
    }
}

/// What guests are told, as [`abi::boot::BootInfo::workarounds`].
pub fn workarounds() -> u32 {
    WORKAROUNDS.load(Ordering::Relaxed)
}

/// Whether guests may call a mitigation; else [`serve`] need not be asked.
#[inline(always)]
pub fn serves() -> bool {
    SERVES.load(Ordering::Relaxed)
}

/// Makes a guest's call of `function`, if it is a mitigation that is needed; whether it was.
#[cold]
pub fn serve(function: u64) -> bool {
    let needed = [0, 2].into_iter().any(|i| {
        function as u32 == WORKAROUND_FUNCTIONS[i] as u32
            && Workaround::unpack(workarounds(), i) == Workaround::Needed
    });
    if needed {
        call(function & 0xffff_ffff, 0, 0, 0);
    }
    needed
}
