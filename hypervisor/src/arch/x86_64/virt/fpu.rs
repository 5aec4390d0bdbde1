//! Vector and floating-point state of vCPUs.
//!
//! The kernel and its threads do not use these registers: threads run with CR0.TS set and fault. So the
//! registers always belong to the vCPU of this CPU that was last in guest mode, and are switched when
//! another one enters, before guest code runs: nothing of one guest is ever visible to another. Where CPUs show them to
//! threads all the same (LazyFP), they are cleared at each exit to a thread. XCR0, which threads can
//! read, stays a guest's while its monitor runs, which has set it, and is the machine's for others (`table`).

use core::arch::asm;
use core::num::NonZero;
use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

use super::{KernelPage, hw, state};

/// Offset of FCW in the save area (Intel SDM 1 10.5.1, 13.4).
const FCW: u64 = 0;
/// Offset of MXCSR.
const MXCSR: u64 = 24;
const RESET_FCW: u16 = 0x37f;
const RESET_MXCSR: u32 = 0x1f80;

/// How this machine saves the state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Method {
    /// Components that are saved and restored; 0: there is no XSAVE, FXSAVE is used.
    pub components: u64,
    /// XSAVEOPT is there.
    pub optimised: bool,
    /// FXRSTOR and XRSTOR leave the x87 error pointers alone when no exception is pending (AMD before
    /// Zen 2): they would show one guest's addresses to the next.
    pub leaks_pointers: bool,
    /// Guests' XSETBV is executed although it is intercepted (QEMU 7.2 without KVM).
    pub xcr0_escapes: bool,
}

/// The state after reset, for who has none: FCW and MXCSR, and in the header of XSAVE that all is initial.
/// [`Unit::start`] writes the two words that are not 0, so that the image does not hold the others.
#[repr(C, align(64))]
struct Initial([AtomicU64; 72]);

static INITIAL: Initial = Initial([const { AtomicU64::new(0) }; 72]);

/// A save area: one page of a vCPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Area(NonZero<u64>);

impl Area {
    /// A save area with the state after reset.
    ///
    /// # Safety
    ///
    /// `page` is zeroed and used for nothing else as long as the area is.
    pub unsafe fn new(page: KernelPage) -> Area {
        // SAFETY: both fields are aligned and inside the page, which is the caller's to give. The other
        // zeros say: all components in their initial state (SSE's MXCSR is loaded all the same).
        unsafe {
            ((page.virt.0 + FCW) as *mut u16).write_volatile(RESET_FCW);
            ((page.virt.0 + MXCSR) as *mut u32).write_volatile(RESET_MXCSR);
        }
        // SAFETY: the window does not start at address 0.
        Area(unsafe { NonZero::new_unchecked(page.virt.0) })
    }
}

/// The registers of one CPU: whose state they hold. Before [`Unit::start`], nobody's.
#[derive(Debug, Default)]
pub(super) struct Unit {
    method: Method,
    owner: Option<Area>,
    xcr0: u64,
}

impl Unit {
    /// Starts to switch the current CPU's registers, which hold nobody's state.
    ///
    /// # Safety
    ///
    /// CR4.OSFXSR is set and, if `method` has components, CR4.OSXSAVE; `method` fits the processor, and
    /// the components' area is no larger than a page.
    pub unsafe fn start(&mut self, method: Method) {
        *self = Unit { method, owner: None, xcr0: u64::MAX };
        INITIAL.0[FCW as usize / 8].store(RESET_FCW.into(), Relaxed);
        INITIAL.0[MXCSR as usize / 8].store(RESET_MXCSR.into(), Relaxed);
        self.restore_xcr0();
    }

    /// Makes `area`'s state that of the registers.
    #[inline(always)]
    pub fn own(&mut self, area: Area, xcr0: u64) {
        if self.owner != Some(area) {
            self.switch(Some(area));
        }
        if self.xcr0 != xcr0 {
            self.set_xcr0(xcr0);
        }
    }

    /// The XCR0 that the vCPU which had the registers in guest mode has now, if it was `xcr0` before.
    #[inline(always)]
    pub fn escaped_xcr0(&mut self, xcr0: u64) -> u64 {
        if self.method.xcr0_escapes {
            self.xcr0 = hw::xcr0();
            return self.xcr0;
        }
        xcr0
    }

    /// Whether XCR0 is not the machine's value, all components, which is that of most guests too.
    #[inline(always)]
    fn has_guests_xcr0(&self) -> bool {
        self.xcr0 != self.method.components
    }

    /// Gives XGETBV the machine's value.
    #[inline(always)]
    pub fn restore_xcr0(&mut self) {
        if self.has_guests_xcr0() {
            self.set_xcr0(self.method.components);
        }
    }

    /// Saves `area`'s state if the registers hold it, and clears them.
    pub fn disown(&mut self, area: Area) {
        if self.owner == Some(area) {
            self.switch(None);
        }
    }

    #[cold]
    fn set_xcr0(&mut self, xcr0: u64) {
        self.xcr0 = xcr0;
        if self.method.components != 0 {
            // SAFETY: `start`'s caller vouches for CR4; values come from `Limits::xcr0` or are `components`.
            unsafe { hw::set_xcr0(xcr0) };
        }
    }

    #[cold]
    fn switch(&mut self, to: Option<Area>) {
        let cr0 = hw::cr0();
        // SAFETY: the kernel itself does not use the registers that CR0.TS protects; it is set below.
        unsafe { asm!("clts", options(nostack, preserves_flags)) };
        self.set_xcr0(self.method.components);
        if let Some(from) = self.owner.take() {
            self.save(from);
        }
        match to {
            Some(Area(address)) => self.restore(address.get()),
            None => self.restore(&raw const INITIAL as u64),
        }
        self.owner = to;
        // SAFETY: the value read above, and with TS, so that threads cannot reach the guest's registers.
        unsafe { hw::set_cr0(cr0 | state::cr0::TS) };
    }

    fn save(&self, Area(area): Area) {
        let (low, high) = (self.method.components as u32, (self.method.components >> 32) as u32);
        // SAFETY: the area is a page, aligned and large enough (`Area::new`, `Unit::start`), CR0.TS is clear.
        unsafe {
            if self.method.components == 0 {
                asm!("fxsave64 [{}]", in(reg) area.get(), options(nostack, preserves_flags));
            } else if self.method.optimised {
                asm!("xsaveopt64 [{}]", in(reg) area.get(), in("eax") low, in("edx") high,
                    options(nostack, preserves_flags));
            } else {
                asm!("xsave64 [{}]", in(reg) area.get(), in("eax") low, in("edx") high,
                    options(nostack, preserves_flags));
            }
        }
    }

    /// Loads the state at `area`, which is a save area's address or that of [`INITIAL`].
    fn restore(&self, area: u64) {
        let (low, high) = (self.method.components as u32, (self.method.components >> 32) as u32);
        if self.method.leaks_pointers {
            let zero = 0u32;
            // SAFETY: clears pending exceptions and points the error pointers here; the x87 state is
            // replaced below.
            unsafe {
                asm!("fnclex", "emms", "fild dword ptr [{}]", in(reg) &raw const zero, options(nostack))
            };
        }
        // SAFETY: as for saving; the area holds what was saved or the initial state, so it is well-formed.
        unsafe {
            if self.method.components == 0 {
                asm!("fxrstor64 [{}]", in(reg) area, options(nostack, preserves_flags));
            } else {
                asm!("xrstor64 [{}]", in(reg) area, in("eax") low, in("edx") high,
                    options(nostack, preserves_flags));
            }
        }
    }
}
