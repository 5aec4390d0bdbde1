//! Hardware virtualisation: VMX and SVM behind one interface.
//!
//! Order of use: [`detect`] on the boot CPU; [`init_cpu`] on every CPU; then for each vCPU, on its CPU:
//! [`VcpuArch::load`] with the monitor's first answer, and in turns [`VcpuArch::prepare`],
//! [`VcpuArch::suspend`], [`VcpuArch::save`], [`VcpuArch::load`]; at last [`VcpuArch::leave_cpu`].
//!
//! # What the kernel keeps
//!
//! - Interrupts are off whenever this module runs.
//! - Between [`VcpuArch::prepare`] and any thread or other vCPU comes [`VcpuArch::suspend`]: until then what the kernel
//!   keeps by [`table`] is the guest's. Entering the same vCPU again needs none. Before a thread of its monitor,
//!   [`VcpuArch::lend`] is enough.
//! - After an exit under VMX, FS base, DS, ES, FS and GS are 0, and the limit of TR is 67h
//!   ([`CpuVirt::take_task_limit_lost`]). Under SVM, FS base is what it was at [`init_cpu`]. KERNEL_GS_BASE, too,
//!   has its value of that time after `lend` and `suspend`: a thread that has its own FS or GS base gets it from
//!   the thread switch.
//! - Threads run with CR0.TS set; the kernel does not use vector registers.
//! - CR4 does not change after [`init_cpu`]. CR3 may: an exit returns to the CR3 of the entry.
//! - Two vCPUs of one CPU never have the same [`GuestRoot::tag`] at a time.

mod common;
mod cpu;
mod debug;
mod event;
mod features;
mod fpu;
mod guest;
pub(super) mod hw;
mod map;
mod state;
mod svm;
mod table;
mod vmx;

use abi::boot::Virtualization;
use abi::vcpu::x86_64::VcpuState;

use crate::addr::{HostPhys, HostVirt};
use crate::mem::KernelPage;
use crate::vcpu::Exit;
use common::Common;
use cpu::CpuId;
use event::Event;
use state::StatePage;

pub use cpu::{CpuVirt, InitError, PAGES_PER_CPU, init_cpu};
pub use features::{Features, Missing, detect, features, physical_end};
pub use fpu::Method;
pub use state::Limits;
pub(in crate::arch) use svm::assembly as svm_assembly;
pub use vmx::ControlWord;
pub(in crate::arch) use vmx::assembly as vmx_assembly;

/// Pages that a vCPU needs, besides its state page: control structure and vector state. They need not
/// be contiguous.
const PAGES_PER_VCPU: usize = 2;

/// How many pages [`VcpuArch::new`] takes.
pub fn pages_per_vcpu() -> usize {
    PAGES_PER_VCPU
}

/// The guest-physical space that a vCPU runs in.
#[derive(Clone, Copy, Debug)]
pub struct GuestRoot {
    /// Root of the second-level tables.
    pub root: HostPhys,
    /// VPID or ASID: 1 to [`Features::tags`] - 1, on this CPU this vCPU's alone.
    pub tag: u16,
    /// Drop what this CPU has cached for the tag and the root, before guest code runs.
    pub flush: bool,
}

/// How guest mode ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Outcome {
    /// Tell the monitor.
    Exit {
        /// What.
        exit: Exit,
        /// Unless a doorbell is there: a write to memory or a port, which nothing has to come before when the guest goes
        /// on.
        plain_write: bool,
    },
    /// An acknowledged interrupt of the machine (VMX): its vector is to be handled as if it had come through the IDT.
    HostInterrupt(u8),
    /// An NMI of the machine that has not been handled, and NMIs are blocked until the next IRET (VMX): `int 2` does
    /// both.
    HostNmi,
    /// A machine check of the machine, not handled yet.
    HostMachineCheck,
    /// Enter again, after taking the interrupts that are pending and looking for kicks.
    Resume,
}

impl Outcome {
    const fn exit(exit: Exit) -> Outcome {
        Outcome::Exit { exit, plain_write: false }
    }
}

/// How a backend's guest mode ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Leave {
    /// Nothing is left to do here.
    Ended(Outcome),
    /// An intercepted exception to be passed on to the guest.
    Exception(Event),
    /// The first access to a debug register.
    DebugRegisters,
    /// IRET while NMIs are blocked (SVM).
    Iret,
}

/// What assembly uses of a vCPU.
#[repr(C)]
pub struct Passage {
    /// Room for a register, under VMX at exits.
    pub scratch: u64,
    /// Address of the state page.
    pub page: u64,
    /// Address of the VMCB; 0 under VMX, as the rest.
    pub vmcb: u64,
    /// Its physical address.
    pub vmcb_phys: u64,
    /// Physical address of what VMSAVE has saved of the CPU.
    pub host: u64,
    /// Clean bits after an exit.
    pub clean: u32,
    /// The processor tells where the next instruction is.
    pub next_rip: bool,
    /// The return stack is filled after exits.
    pub fills_returns: bool,
}

/// Where a [`VcpuArch`] has its [`Passage`].
pub const PASSAGE: usize = core::mem::offset_of!(VcpuArch, passage);

/// The architecture's part of a vCPU. All methods but [`VcpuArch::new`] run on its CPU.
pub struct VcpuArch {
    passage: Passage,
    inner: Inner,
}

/// Where it has the part of the backend: behind the number of the variant, as an enumeration with a primitive
/// representation is a union of structures that begin with that.
pub const BACKEND: usize = core::mem::offset_of!(VcpuArch, inner) + size_of::<u64>();
/// Where it has what makes the next entry one for the general path.
pub const TO_DO: usize = BACKEND + core::mem::offset_of!(svm::Vcpu, common.to_do);
const _: () = {
    use core::mem::offset_of;
    assert!(align_of::<vmx::Vcpu>() == align_of::<u64>());
    assert!(offset_of!(vmx::Vcpu, common) == offset_of!(svm::Vcpu, common));
};

/// The stack pointer after an exit under VMX, from there: behind the room for a register.
const STACK_AFTER_EXIT: usize = PASSAGE + core::mem::offset_of!(Passage, page);

#[repr(u64)]
enum Inner {
    Vmx(vmx::Vcpu),
    Svm(svm::Vcpu),
}

impl Inner {
    /// It is in the same place of both.
    #[inline(always)]
    fn common(&mut self) -> &mut Common {
        match self {
            Inner::Vmx(vcpu) => &mut vcpu.common,
            Inner::Svm(vcpu) => &mut vcpu.common,
        }
    }
}

const _: () = assert!(size_of::<VcpuArch>() < 1024);

impl VcpuArch {
    /// A vCPU in the state after reset, on no CPU yet. On any CPU.
    ///
    /// # Panics
    ///
    /// If [`detect`] found no extension, or there are not [`pages_per_vcpu`] pages: an error of the caller.
    ///
    /// # Safety
    ///
    /// The pages are zeroed, mapped, and used for nothing else as long as the vCPU exists. `state` is the address
    /// of the mapped state page, to which the kernel has no Rust reference as long. [`VcpuArch::leave_cpu`]
    /// comes before the end of any of them.
    pub unsafe fn new(pages: &[KernelPage], state: *mut VcpuState) -> VcpuArch {
        assert!(pages.len() == PAGES_PER_VCPU);
        // SAFETY: the caller's.
        unsafe {
            let state = StatePage::new(state);
            let common = Common::new(pages[0].phys().0, state, fpu::Area::new(pages[1]));
            let mut passage = Passage {
                scratch: 0,
                page: state.as_ptr() as u64,
                vmcb: 0,
                vmcb_phys: 0,
                host: 0,
                clean: 0,
                next_rip: false,
                fills_returns: false,
            };
            let inner = match features().backend {
                features::Backend::Vmx(capabilities) => {
                    Inner::Vmx(vmx::Vcpu::new(capabilities, pages[0], common))
                }
                features::Backend::Svm(capabilities) => {
                    passage.vmcb = pages[0].virt.0;
                    passage.vmcb_phys = pages[0].phys().0;
                    passage.next_rip = capabilities.next_rip;
                    if capabilities.clean_bits {
                        passage.clean = svm::Clean::all().bits();
                    }
                    Inner::Svm(svm::Vcpu::new(capabilities, pages[0], common))
                }
                features::Backend::None => panic!("no virtualisation extension"),
            };
            VcpuArch { passage, inner }
        }
    }

    /// Makes everything ready for running guest code, with the extension that is returned; `None` if the guest's NMI window
    /// is to be told instead.
    /// General registers come from the state page and go there. With `spins_exit`, PAUSE exits.
    ///
    /// # Panics
    ///
    /// If another vCPU of this CPU was not suspended.
    pub fn prepare(
        &mut self,
        cpu: &mut CpuVirt,
        space: &GuestRoot,
        spins_exit: bool,
    ) -> Option<Virtualization> {
        match &mut self.inner {
            Inner::Vmx(vcpu) => vcpu.make_current(cpu),
            Inner::Svm(vcpu) => {
                if vcpu.common.cpu != cpu.id {
                    vcpu.come_to(cpu, &mut self.passage);
                }
            }
        }
        let common = self.inner.common();
        if cpu.loaded != common.id {
            common.load_registers(cpu);
        }
        if common.spins_exit != spins_exit {
            self.set_spins_exit(spins_exit);
        }
        match &mut self.inner {
            Inner::Vmx(vcpu) => {
                vcpu.prepare(cpu, space);
                Some(Virtualization::Vmx)
            }
            Inner::Svm(vcpu) => vcpu.prepare(cpu, space).then_some(Virtualization::Svm),
        }
    }

    /// How guest mode, in which the vCPU was, was left; with `failed`, the processor did not enter it (VMX).
    pub fn left(&mut self, cpu: &mut CpuVirt, failed: bool) -> Outcome {
        let leave = match &mut self.inner {
            Inner::Vmx(vcpu) => vcpu.left(cpu, failed),
            Inner::Svm(vcpu) => vcpu.left(),
        };
        match leave {
            Leave::Ended(outcome) => outcome,
            Leave::Exception(exception) => {
                self.reflect(exception);
                Outcome::Resume
            }
            Leave::DebugRegisters => {
                self.activate_debug(cpu);
                Outcome::Resume
            }
            Leave::Iret => {
                // The window opens here, before IRET, not after it. That is early, but no guest
                // that bears NMIs in exceptions' IRETs can tell.
                if let Inner::Svm(vcpu) = &mut self.inner {
                    vcpu.set_nmi_blocked(false);
                }
                Outcome::Resume
            }
        }
    }

    /// Passes an intercepted exception on to the guest. If it was raised while an interrupt or NMI was
    /// delivered, that is delivered again instead, and raises it again if it must.
    #[cold]
    fn reflect(&mut self, exception: Event) {
        if self.inner.common().pending.is_external() {
            return;
        }
        // Under SVM, DR6 and DR7 in the VMCB are as the handler is to see them (AMD APM 2 15.12.2).
        if let Inner::Vmx(vcpu) = &mut self.inner
            && exception == Event::exception(event::DB, None)
        {
            vcpu.reflect_debug();
        }
        self.inner.common().set_pending(exception);
    }

    /// Has the guest go on after the write that `exit` tells ([`Outcome::Exit`]), the last one of this vCPU on its CPU;
    /// `false` if the processor does not say where.
    pub fn skip_write(&mut self, exit: &Exit) -> bool {
        match &mut self.inner {
            Inner::Vmx(vcpu) => vcpu.skip_write(exit),
            Inner::Svm(vcpu) => vcpu.skip_write(exit),
        }
    }

    /// Gives threads what they cannot do without, while the monitor runs and the vCPU stays loaded.
    #[inline]
    pub fn lend(&mut self, cpu: &mut CpuVirt) {
        if let Inner::Vmx(vcpu) = &mut self.inner {
            vcpu.lend(cpu);
        }
    }

    /// Moves everything that is resident on its CPU to memory. Before the vCPU ends or runs on another CPU.
    pub fn leave_cpu(&mut self, cpu: &mut CpuVirt) {
        if self.inner.common().cpu != cpu.id {
            return;
        }
        self.suspend(cpu);
        let common = self.inner.common();
        cpu.fpu.disown(common.fpu);
        common.cpu = CpuId::NONE;
        if let Inner::Vmx(vcpu) = &mut self.inner {
            vcpu.leave_cpu(cpu);
        }
    }
}

/// Whether word 1 of [`abi::vcpu::ExitKind::Io`] is of an OUT that is no string instruction.
const fn is_plain_output(word: u64) -> bool {
    word >> 24 & 3 == 0
}

/// Physical address of a static.
fn static_address<T>(object: &'static T) -> HostPhys {
    super::layout::image_phys(HostVirt(&raw const *object as u64))
}

#[cfg(test)]
mod tests;
