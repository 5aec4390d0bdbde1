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

mod cpu;
mod debug;
mod event;
mod features;
mod fpu;
mod hw;
mod map;
mod state;
mod svm;
mod table;
mod vmx;

use abi::boot::Virtualization;
use abi::vcpu::x86_64::{Groups, VcpuState};

use crate::addr::{HostPhys, HostVirt};
use crate::mem::KernelPage;
use crate::vcpu::Exit;
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

/// How guest mode ended, or [`VcpuArch::prepare`] without it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Outcome {
    /// Tell the monitor.
    Exit(Exit),
    /// Tell the monitor, if no doorbell is there: a write to memory or a port, which nothing has to come before
    /// when the guest goes on.
    Write(Exit),
    /// An interrupt of the machine. Under VMX it is acknowledged, and `vector` is to be handled as if it had
    /// come through the IDT. Under SVM it is pending, and comes when interrupts are enabled for a moment.
    HostInterrupt {
        /// The vector, if it is acknowledged.
        vector: Option<u8>,
    },
    /// An NMI of the machine. Under VMX it has not been handled, and NMIs are blocked until the next IRET:
    /// `int 2` does both. Under SVM its handler has run already.
    HostNmi {
        /// The handler is still to be called.
        call: bool,
    },
    /// A machine check of the machine, not handled yet.
    HostMachineCheck,
    /// Handled here: enter again, after looking for kicks.
    Resume,
}

/// How a backend's guest mode ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Leave {
    /// Tell the monitor.
    Exit(Exit),
    /// The same, of a write to memory or a port.
    Write(Exit),
    /// An acknowledged interrupt.
    Interrupt(u8),
    /// An interrupt that is pending.
    InterruptPending,
    /// An NMI that VMX took or SVM left pending.
    Nmi,
    /// Machine check.
    MachineCheck,
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
    /// The next entry is for the general path.
    pub special: bool,
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
const _: () = assert!(align_of::<vmx::Vcpu>() == align_of::<u64>());

/// The stack pointer after an exit under VMX, from there: behind the room for a register.
const STACK_AFTER_EXIT: usize = PASSAGE + core::mem::offset_of!(Passage, page);

#[repr(u64)]
enum Inner {
    Vmx(vmx::Vcpu),
    Svm(svm::Vcpu),
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
            let fpu = fpu::Area::new(pages[1]);
            let mut passage = Passage {
                scratch: 0,
                page: state.as_ptr() as u64,
                vmcb: 0,
                vmcb_phys: 0,
                host: 0,
                clean: 0,
                next_rip: false,
                fills_returns: false,
                special: true,
            };
            let inner = match &features().backend {
                features::Backend::Vmx(capabilities) => {
                    Inner::Vmx(vmx::Vcpu::new(capabilities, pages[0], fpu, state))
                }
                features::Backend::Svm(capabilities) => {
                    passage.vmcb = pages[0].virt.0;
                    passage.vmcb_phys = pages[0].phys.0;
                    Inner::Svm(svm::Vcpu::new(capabilities, pages[0], fpu, state))
                }
                features::Backend::None => panic!("no virtualisation extension"),
            };
            VcpuArch { passage, inner }
        }
    }

    /// Makes everything ready for running guest code, with the extension that is returned; or the exit to be told instead.
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
    ) -> Result<Virtualization, Outcome> {
        match &mut self.inner {
            Inner::Vmx(vcpu) => {
                vcpu.prepare(cpu, space, spins_exit);
                self.passage.special = vcpu.is_special(cpu);
                Ok(Virtualization::Vmx)
            }
            Inner::Svm(vcpu) => {
                let passage = &mut self.passage;
                if let Some(exit) = vcpu.prepare(cpu, space, spins_exit, passage) {
                    return Err(exit);
                }
                passage.fills_returns = cpu.fills_returns;
                passage.special = vcpu.is_special(cpu);
                Ok(Virtualization::Svm)
            }
        }
    }

    /// How guest mode, in which the vCPU was, was left; with `failed`, the processor did not enter it (VMX).
    pub fn left(&mut self, cpu: &mut CpuVirt, failed: bool) -> Outcome {
        match &mut self.inner {
            Inner::Vmx(vcpu) => {
                let outcome = vcpu.left(cpu, failed);
                self.passage.special = vcpu.is_special(cpu);
                outcome
            }
            Inner::Svm(vcpu) => {
                let outcome = vcpu.left(cpu);
                self.passage.special = vcpu.is_special(cpu);
                outcome
            }
        }
    }

    /// Has the guest go on after the write that `exit` tells ([`Outcome::Write`]), the last one of this vCPU on its CPU;
    /// `false` if the processor does not say where.
    pub fn skip_write(&mut self, cpu: &CpuVirt, exit: &Exit) -> bool {
        match &mut self.inner {
            Inner::Vmx(vcpu) => vcpu.skip_write(cpu, exit),
            Inner::Svm(vcpu) => {
                if vcpu.skip_write(exit) {
                    self.passage.special = true;
                }
                true
            }
        }
    }

    /// Gives threads' registers back to the machine; see the module's documentation. Without effect if that
    /// is done already.
    #[inline]
    pub fn suspend(&mut self, cpu: &mut CpuVirt) {
        self.passage.special = true;
        match &mut self.inner {
            Inner::Vmx(vcpu) => vcpu.suspend(cpu),
            Inner::Svm(vcpu) => vcpu.suspend(cpu),
        }
    }

    /// Gives threads what they cannot do without, while the monitor runs and the vCPU stays loaded.
    #[inline]
    pub fn lend(&mut self, cpu: &mut CpuVirt) {
        if let Inner::Vmx(vcpu) = &mut self.inner {
            vcpu.lend(cpu);
        }
    }

    /// Copies `groups` of guest state to the state page. `interrupted` is the event that the next entry would
    /// inject: one whose delivery the exit interrupted, or one that was loaded but not injected yet. If the
    /// monitor does not load [`Groups::EVENTS`], it is injected.
    pub fn save(&mut self, cpu: &mut CpuVirt, groups: Groups) {
        match &mut self.inner {
            Inner::Vmx(vcpu) => vcpu.save(cpu, groups),
            Inner::Svm(vcpu) => vcpu.save(cpu, groups),
        }
    }

    /// Takes `groups` of guest state from the state page, made harmless. [`Groups::EVENTS`] replaces the event
    /// to be injected, and zeroes it on the page. [`Groups::RIP`] without `EVENTS` ends an interrupt shadow,
    /// as the instruction in it is done. `CONTROL_HALT` and [`Groups::DEADLINE`] are the caller's.
    pub fn load(&mut self, cpu: &mut CpuVirt, groups: Groups) {
        match &mut self.inner {
            Inner::Vmx(vcpu) => {
                vcpu.load(cpu, groups);
                self.passage.special = vcpu.is_special(cpu);
            }
            Inner::Svm(vcpu) => {
                vcpu.load(cpu, groups);
                self.passage.special = vcpu.is_special(cpu);
            }
        }
    }

    /// Moves everything that is resident on its CPU to memory. Before the vCPU ends or runs on another CPU.
    pub fn leave_cpu(&mut self, cpu: &mut CpuVirt) {
        match &mut self.inner {
            Inner::Vmx(vcpu) => vcpu.leave_cpu(cpu),
            Inner::Svm(vcpu) => vcpu.leave_cpu(cpu),
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
