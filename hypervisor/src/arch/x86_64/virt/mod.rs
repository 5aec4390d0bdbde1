//! Hardware virtualisation: VMX and SVM behind one interface.
//!
//! Order of use: [`detect`] on the boot CPU; [`init_cpu`] on every CPU; then for each vCPU, on its CPU:
//! [`VcpuArch::load_groups`] with the monitor's first answer, and in turns [`VcpuArch::prepare`],
//! [`VcpuArch::suspend`], [`VcpuArch::save_groups`], [`VcpuArch::load_groups`]; at last [`VcpuArch::leave`].
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
//! - Two vCPUs of one CPU never have the same tag at a time.

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
pub(in crate::arch) mod svm;
mod table;
pub(in crate::arch) mod vmx;

use abi::boot::Virtualization;
use abi::vcpu::ExitKind;
use abi::vcpu::x86_64::VcpuState;

use super::tags::{GuestTag, GuestTags};
use crate::addr::{HostPhys, HostVirt};
use crate::mem::KernelPage;
use crate::vcpu::Exit;
use common::Common;
use cpu::CpuId;
use event::Event;
use features::Backend;
use state::StatePage;

pub use cpu::{CpuVirt, PAGES_PER_CPU, init_cpu};
pub use features::{Features, Missing, detect, features, physical_end};
pub use fpu::Method;
pub use state::Limits;
pub(in crate::arch) use state::SyscallMsrs;
pub use vmx::ControlWord;

/// Pages that a vCPU needs, besides its state page: control structure and vector state. They need not
/// be contiguous.
pub const PAGES_PER_VCPU: usize = 2;

/// How guest mode ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Outcome {
    /// Tell the monitor. If it is a write, the assembly of exits has already looked for a doorbell.
    Exit(Exit),
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

/// What is told of an exit, by its number, without a closer look. The assembly reads it, too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub(in crate::arch) struct Told {
    /// The kind; `Kick`, which is no exit of the processor, if a closer look is needed.
    kind: ExitKind,
    /// What the backend says of the length of the instruction. 0: there is no instruction.
    length: u8,
}

impl Told {
    const fn table<const COUNT: usize>(known: &[(usize, ExitKind, u8)]) -> [Told; COUNT] {
        let mut table = [Told { kind: ExitKind::Kick, length: 0 }; COUNT];
        let mut i = 0;
        while i < known.len() {
            let (number, kind, length) = known[i];
            table[number] = Told { kind, length };
            i += 1;
        }
        table
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

/// The architecture's part of a vCPU. All methods but [`VcpuArch::from_pages`] run on its CPU.
#[repr(u64)]
#[allow(private_interfaces, reason = "nobody else looks inside")]
pub enum VcpuArch {
    /// Under VMX.
    Vmx(vmx::Vcpu),
    /// Under SVM.
    Svm(svm::Vcpu),
}

const _: () = assert!(size_of::<VcpuArch>() < 1024);

/// Does the same with the backend's part of a vCPU, whichever that is.
macro_rules! backend {
    ($arch:expr, $vcpu:ident => $work:expr) => {
        match $arch {
            VcpuArch::Vmx($vcpu) => $work,
            VcpuArch::Svm($vcpu) => $work,
        }
    };
}
use backend;

/// Where assembly finds parts of a vCPU, from its address.
pub mod offset {
    use super::super::tags;
    use super::{svm, vmx};
    use crate::vcpu::Vcpu;
    use core::mem::offset_of;

    /// Number of the variant of [`super::VcpuArch`]: 0 under VMX.
    pub const IS_SVM: usize = offset_of!(Vcpu, arch);
    /// The backend's part is behind it, as an enumeration with a primitive representation is a union of structures that begin
    /// with that.
    const BACKEND: usize = IS_SVM + size_of::<u64>();
    const _: () = {
        assert!(align_of::<vmx::Vcpu>() == size_of::<u64>());
        assert!(align_of::<svm::Vcpu>() == size_of::<u64>());
        assert!(offset_of!(vmx::Vcpu, common) == offset_of!(svm::Vcpu, common));
        assert!(PAGE == SCRATCH + size_of::<u64>());
    };

    macro_rules! offsets {
        ($($name:ident: $backend:ident $($field:ident).+,)*) => {
            $(
                #[doc = concat!("Of `", stringify!($($field).+), "`.")]
                pub const $name: usize = BACKEND + offset_of!($backend::Vcpu, $($field).+);
            )*
        };
    }

    offsets! {
        SCRATCH: svm common.scratch,
        PAGE: svm common.page,
        ID: svm common.id,
        TAG: svm common.tag,
        TO_DO: svm common.to_do,
        VMCB: svm vmcb,
        HOST: svm host,
        CLEAN: svm clean,
        NEXT_RIP: svm capabilities.next_rip,
        HOST_CR3: vmx host_cr3,
        CR2: vmx cr2,
        LAUNCHED: vmx launched,
        LENT: vmx lent,
        DIFFERS: vmx differs,
        MSRS: vmx msrs,
    }

    /// Of the generation of the tag.
    pub const TAG_GENERATION: usize = TAG + tags::GENERATION;
}

impl VcpuArch {
    /// A vCPU in the state after reset, on no CPU yet. On any CPU.
    ///
    /// # Panics
    ///
    /// If [`detect`] found no extension, or there are not [`PAGES_PER_VCPU`] pages: an error of the caller.
    ///
    /// # Safety
    ///
    /// The pages are zeroed, mapped, and used for nothing else as long as the vCPU exists; to the state page, the kernel has no
    /// Rust reference as long. [`VcpuArch::leave`] comes before the end of any of them.
    pub unsafe fn from_pages(pages: &[KernelPage], state: KernelPage) -> VcpuArch {
        assert!(pages.len() == PAGES_PER_VCPU);
        // SAFETY: the caller's.
        unsafe {
            let state = StatePage::new(state.virt.0 as *mut VcpuState);
            let common = Common::new(pages[0].phys().0, state, fpu::Area::new(pages[1]));
            match features().backend.as_ref().expect("no virtualisation extension") {
                Backend::Vmx(it) => VcpuArch::Vmx(vmx::Vcpu::new(it, pages[0], common)),
                Backend::Svm(it) => VcpuArch::Svm(svm::Vcpu::new(*it, pages[0], common)),
            }
        }
    }

    /// What it has under either extension, in the same place of both.
    #[inline(always)]
    fn common(&mut self) -> &mut Common {
        backend!(self, vcpu => &mut vcpu.common)
    }

    /// Makes everything ready for running guest code, with the extension that is returned; `None` if the guest's NMI window
    /// is to be told instead.
    /// General registers come from the state page and go there. `tags` are those of the CPU, `root` is that of the guest space's
    /// tables. With `spins_exit`, PAUSE exits.
    ///
    /// # Panics
    ///
    /// If another vCPU of this CPU was not suspended.
    pub fn prepare(
        &mut self,
        cpu: &mut CpuVirt,
        tags: &mut GuestTags,
        root: HostPhys,
        spins_exit: bool,
    ) -> Option<Virtualization> {
        let flush = tags.renew(&mut self.common().tag);
        backend!(self, vcpu => vcpu.come_to(cpu));
        let common = self.common();
        if cpu.loaded != common.id {
            common.load_registers(cpu);
        }
        if common.spins_exit != spins_exit {
            self.set_spins_exit(spins_exit);
        }
        match self {
            VcpuArch::Vmx(vcpu) => {
                vcpu.prepare(cpu, root, flush);
                Some(Virtualization::Vmx)
            }
            VcpuArch::Svm(vcpu) => vcpu.prepare(cpu, root, flush).then_some(Virtualization::Svm),
        }
    }

    /// How guest mode, in which the vCPU was, was left; with `failed`, the processor did not enter it (VMX).
    pub fn left(&mut self, cpu: &mut CpuVirt, failed: bool) -> Outcome {
        let leave = match self {
            VcpuArch::Vmx(vcpu) => vcpu.left(cpu, failed),
            VcpuArch::Svm(vcpu) => vcpu.left(),
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
                if let VcpuArch::Svm(vcpu) = self {
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
        if self.common().pending.is_external() {
            return;
        }
        // Under SVM, DR6 and DR7 in the VMCB are as the handler is to see them (AMD APM 2 15.12.2).
        if let VcpuArch::Vmx(vcpu) = self
            && exception == Event::exception(event::DB, None)
        {
            vcpu.reflect_debug();
        }
        self.common().set_pending(exception);
    }

    /// Has the guest go on after the write that `exit` tells, the last one of this vCPU on its CPU; `false` if the processor
    /// does not say where.
    pub fn skip_write(&mut self, exit: &Exit) -> bool {
        backend!(self, vcpu => vcpu.skip_write(exit))
    }

    /// Gives threads what they cannot do without, while the monitor runs and the vCPU stays loaded.
    #[inline]
    pub fn lend(&mut self, cpu: &mut CpuVirt) {
        if let VcpuArch::Vmx(vcpu) = self {
            vcpu.lend(cpu);
        }
    }

    /// Moves everything that is resident on its CPU to memory. Before the vCPU ends or runs on another CPU.
    pub fn leave(&mut self, cpu: &mut CpuVirt) {
        self.common().tag = GuestTag::default();
        if self.common().cpu != cpu.id {
            return;
        }
        self.suspend(cpu);
        let common = self.common();
        cpu.fpu.disown(common.fpu);
        common.cpu = CpuId::NONE;
        if let VcpuArch::Vmx(vcpu) = self {
            vcpu.leave(cpu);
        }
    }
}

/// Physical address of a static.
fn static_address<T>(object: &'static T) -> HostPhys {
    super::layout::image_phys(HostVirt(&raw const *object as u64))
}

#[cfg(test)]
mod tests;
