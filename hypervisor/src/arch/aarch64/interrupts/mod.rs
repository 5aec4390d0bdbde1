//! The machine's interrupt controller, GICv2 or GICv3, and its virtual CPU interface.
//!
//! Ending an interrupt drops its priority only (EOImode 1); it stays active, and so is not taken again, until it is deactivated: at once,
//! or for a line that a program handles, when that acknowledges it. Edges that come meanwhile are kept.

mod list_register;
mod registers;
mod v2;
mod v3;

pub use registers::lines;

use super::boot;
use super::firmware::device_tree::Gic;
use crate::boot::PhysRange;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

/// SGI by which CPUs call each other.
pub const CALL: u32 = 0;
/// SGI that stops a CPU.
pub const STOP: u32 = 1;
/// PPI of the virtual CPU interface's maintenance.
pub const MAINTENANCE: u32 = 25;
/// PPI of the EL2 physical timer.
pub const TIMER: u32 = 26;
/// PPI of the virtual timer.
pub const VIRTUAL_TIMER: u32 = 27;
/// First SPI.
pub const FIRST_SPI: u32 = 32;

/// Private interrupts that the kernel takes.
const PRIVATE: u32 = 1 << CALL | 1 << STOP | 1 << MAINTENANCE | 1 << TIMER | 1 << VIRTUAL_TIMER;
/// Priority of all interrupts.
const PRIORITY: u32 = 0x8080_8080;

static VERSION: AtomicU32 = AtomicU32::new(0);
/// The two pages of a GICv2's GICV.
static GUEST_PAGES: AtomicU64 = AtomicU64::new(0);

/// Whether the machine has a GICv2.
#[inline]
fn is_v2() -> bool {
    version() == 2
}

/// 2 or 3; 0 before [`init`].
#[inline]
pub fn version() -> u32 {
    VERSION.load(Ordering::Relaxed)
}

/// Calls a function of the machine's version.
macro_rules! of_version {
    ($function:ident($($argument:expr),*)) => {
        if is_v2() { v2::$function($($argument),*) } else { v3::$function($($argument),*) }
    };
}

/// Ranges of registers that are the kernel's.
pub fn ranges(gic: Gic) -> impl Iterator<Item = PhysRange> {
    let all = match gic {
        Gic::V2 { distributor, cpu_interface, control, .. } => {
            [Some(distributor), Some(cpu_interface), Some(control), None, None]
        }
        Gic::V3 { distributor, redistributors: [a, b, c, d] } => [Some(distributor), a, b, c, d],
    };
    all.into_iter().flatten()
}

/// Sets the distributor up; its registers are mapped. All lines are masked.
pub fn init(gic: Gic) {
    match gic {
        Gic::V2 { distributor, cpu_interface, control, vcpu_interface } => {
            VERSION.store(2, Ordering::Relaxed);
            let offset = v2::init(distributor.start(), cpu_interface, control.start());
            GUEST_PAGES.store(vcpu_interface.start().0 + offset, Ordering::Relaxed);
        }
        Gic::V3 { distributor, .. } => {
            VERSION.store(3, Ordering::Relaxed);
            v3::init(distributor.start());
        }
    }
}

/// Physical addresses of the registers by which a guest, the one that is loaded, acts on its interface; `None`: it has none in
/// memory.
pub fn guest_registers() -> Option<PhysRange> {
    match boot::machine().gic? {
        Gic::V2 { vcpu_interface, .. } => Some(vcpu_interface.outward()),
        Gic::V3 { .. } => None,
    }
}

/// How this CPU is named to others.
#[derive(Clone, Copy, Debug, Default)]
pub struct Target(u64);

/// Sets this CPU's part up. `None` if it has none.
pub fn init_this_cpu() -> Option<Target> {
    of_version!(init_this_cpu()).map(Target)
}

/// Takes the next pending interrupt; `None`: there is none.
#[inline]
pub fn acknowledge() -> Option<Acknowledged> {
    let taken = Acknowledged(of_version!(acknowledge()));
    // 1020 to 1023 are special.
    (taken.number() < 1020).then_some(taken)
}

/// An interrupt that was taken and has to be ended.
#[derive(Clone, Copy, Debug)]
pub struct Acknowledged(u32);

impl Acknowledged {
    /// Its INTID.
    pub const fn number(self) -> u32 {
        // Above are GICv2's source CPU and GICv3's LPIs, of which none is enabled.
        self.0 & 0x3ff
    }

    /// Ends it.
    #[inline]
    pub fn end(self) {
        self.leave_active();
        of_version!(deactivate(self.0));
    }

    /// Lets others be taken, and this one not until [`deactivate`].
    #[inline]
    pub fn leave_active(self) {
        of_version!(drop_priority(self.0));
    }
}

/// Sends an SGI to a CPU.
pub fn send(number: u32, to: Target) {
    of_version!(send(number, to.0));
}

/// Sends an SGI to all other CPUs.
pub fn send_to_others(number: u32) {
    of_version!(send_to_others(number));
}

/// Sets an SPI's trigger mode and has it go to `to`, masked. Whether there is one.
pub fn route(line: u32, level: bool, to: Target) -> bool {
    if line >= lines() {
        return false;
    }
    set_enabled(line, false);
    deactivate(line);
    registers::set_trigger(line + FIRST_SPI, level);
    of_version!(route(line + FIRST_SPI, to.0));
    true
}

/// Lets an SPI that was left active be taken again, from any CPU.
pub fn deactivate(line: u32) {
    if line < lines() {
        registers::deactivate(line + FIRST_SPI);
    }
}

/// Masks or unmasks an SPI.
pub fn set_enabled(line: u32, on: bool) {
    if line < lines() {
        registers::set_enabled(line + FIRST_SPI, on);
    }
}

/// The virtual CPU interface of this CPU; list registers in the format of GICv3.
pub mod virtual_interface {
    use super::{GUEST_PAGES, is_v2, v2, v3};
    use core::sync::atomic::Ordering;

    /// State of an interface, of which a vCPU's consists.
    #[derive(Clone, Copy, Debug, Default)]
    pub struct Interface {
        /// ICH_HCR_EL2 without its enable bit.
        pub control: u64,
        /// ICH_VMCR_EL2.
        pub vmcr: u64,
        /// Active priorities, as in the state page.
        pub active: [u32; 8],
        /// List registers.
        pub list: [u64; abi::vcpu::aarch64::LIST_REGISTERS],
    }

    /// ICH_HCR_EL2: the interface is on.
    pub const ENABLE: u64 = 1 << 0;

    /// Physical address of the two pages that guests are given, as [`abi::boot::BootInfo::gic_vcpu_interface`].
    pub fn guest_pages() -> u64 {
        GUEST_PAGES.load(Ordering::Relaxed)
    }

    /// Number of list registers.
    pub fn list_registers() -> usize {
        of_version!(list_registers())
    }

    /// Reads the interface, but for `control`.
    pub fn save(into: &mut Interface) {
        of_version!(save(into));
    }

    /// Loads the interface, but for `control`.
    pub fn load(from: &Interface) {
        of_version!(load(from));
    }

    /// Sets ICH_HCR_EL2.
    #[inline]
    pub fn set_control(value: u64) {
        of_version!(set_control(value));
    }

    /// ICH_MISR_EL2: why a maintenance interrupt is asked for.
    pub fn maintenance() -> u64 {
        of_version!(maintenance())
    }
}
