//! Intel VT-x: unrestricted guests with EPT and VPID.

mod capabilities;
pub(in crate::arch) mod exit;
mod guest;
mod host;
mod msr_bitmap;
pub(super) mod vmcs;

use abi::vcpu::ExitKind;
use abi::vcpu::x86_64::RCX;
use x86::dtables::lgdt;
use x86::msr::{self, rdmsr};
use x86::vmx::vmcs::control::{self, PrimaryControls};
use x86::vmx::vmcs::{guest as field, host as host_field, ro};

use super::common::Common;
use super::cpu::{CpuId, CpuVirt};
use super::event::{self, Event};
use super::state::{self, SyscallMsrs, cr0, cr4, peek};
use super::{Exit, HostPhys, KernelPage, Leave, Outcome, hw};

use super::super::speculation::overwrite_buffers;
pub(super) use capabilities::Capabilities;
pub use capabilities::ControlWord;
pub(in crate::arch) use host::HostState;

/// Bits of the interruptibility state (Intel SDM 3C table 25-3).
pub(in crate::arch) const BLOCKING_STI: u64 = 1 << 0;
pub(in crate::arch) const BLOCKING_MOV_SS: u64 = 1 << 1;
const BLOCKING_NMI: u64 = 1 << 3;
/// Conditions of a #DB in the exit qualification: DR6.BD and BS.
const DB_GENERAL_DETECT: u64 = 1 << 13;
const DB_SINGLE_STEP: u64 = 1 << 14;
/// DR7.GD.
const DR7_GENERAL_DETECT: u64 = 1 << 13;
/// EPT pointer: tables are write-back, of four levels.
const EPT_POINTER: u64 = 6 | 3 << 3;

/// A vCPU under VMX.
#[repr(C)]
pub(super) struct Vcpu {
    pub common: Common,
    capabilities: &'static Capabilities,
    /// What HOST_CR3 holds.
    pub host_cr3: u64,
    pub cr2: u64,
    cr0_shadow: u64,
    cr4_shadow: u64,
    /// CR0 bits that are set whatever the guest wants. Together with CD and NW, they are the host's.
    cr0_needed: u64,
    /// CR4 bits that are set whatever the guest wants.
    cr4_needed: u64,
    pub msrs: SyscallMsrs,
    /// The VMCS is launched: VMRESUME.
    pub launched: bool,
    /// Threads have their `SyscallMsrs`.
    pub lent: bool,
    /// The guest's LSTAR may be another one than the host's; the same of STAR, CSTAR or SFMASK.
    pub differs: [bool; 2],
    /// The VMCS has its controls.
    initialised: bool,
    /// Primary controls as they are in the VMCS.
    primary: u32,
}

impl Vcpu {
    /// # Safety
    ///
    /// As for `VcpuArch::from_pages`.
    pub unsafe fn new(
        capabilities: &'static Capabilities,
        vmcs: KernelPage,
        common: Common,
    ) -> Vcpu {
        // SAFETY: the first word of the page that the caller gives as VMCS region.
        unsafe { (vmcs.virt.0 as *mut u32).write_volatile(capabilities.revision) };
        Vcpu {
            common,
            capabilities,
            host_cr3: 0,
            cr2: 0,
            cr0_shadow: state::RESET_CR0,
            cr4_shadow: 0,
            cr0_needed: capabilities.guest_cr0_needed(),
            cr4_needed: capabilities.cr4_needed | cr4::VMXE | cr4::MCE,
            msrs: SyscallMsrs::default(),
            launched: false,
            lent: true,
            differs: [true; 2],
            initialised: false,
            primary: capabilities.controls(ControlWord::Primary),
        }
    }

    /// The VMCS.
    fn vmcs(&self) -> HostPhys {
        HostPhys(self.common.id)
    }

    /// Comes to a CPU, if it is not there, and makes the VMCS current.
    #[inline(always)]
    pub fn come_to(&mut self, cpu: &mut CpuVirt) {
        if cpu.current != self.common.id {
            self.switch_vmcs(cpu);
        }
    }

    #[cold]
    fn switch_vmcs(&mut self, cpu: &mut CpuVirt) {
        let fresh = self.common.cpu == CpuId::NONE;
        // SAFETY: the CPU is in VMX operation, as its CpuVirt exists; the VMCS is active on no other CPU:
        // it is cleared before first use and by `leave`.
        let result = unsafe {
            match fresh {
                true => vmcs::vmclear(self.vmcs()).and_then(|()| vmcs::vmptrld(self.vmcs())),
                false => vmcs::vmptrld(self.vmcs()),
            }
        };
        assert!(result.is_ok(), "VMPTRLD");
        cpu.current = self.common.id;
        if fresh {
            self.common.cpu = cpu.id;
            self.launched = false;
            self.common.set_flush();
            cpu.host.write();
            // SAFETY: exits find the stack pointer behind the room for a register.
            unsafe { vmcs::write(host_field::RSP, &raw const self.common.page as u64) };
            if !self.initialised {
                self.initialise();
                self.initialised = true;
            }
            self.set_host_cr3(hw::cr3());
        }
        assert!(self.common.cpu == cpu.id, "the vCPU is still on another CPU");
    }

    /// Gives the guest its MSRs.
    fn take_back(&mut self, host: &HostState) {
        if !self.lent {
            return;
        }
        self.lent = false;
        // SAFETY: the addresses are canonical and the mask has 32 bits (`load`), or come from the processor.
        self.differs = unsafe { self.msrs.replace(&host.msrs) };
    }

    /// Gives threads their MSRs and descriptor tables. The assembly of exits does the same.
    #[inline(always)]
    pub fn lend(&mut self, cpu: &mut CpuVirt) {
        if !self.lent {
            self.lend_now(cpu);
        }
    }

    #[inline(never)]
    fn lend_now(&mut self, cpu: &mut CpuVirt) {
        self.lent = true;
        // SAFETY: the MSR is on every processor with long mode; the values are the host's, and its tables stay. An exit sets the limit
        // of GDTR to FFFFh: a thread must not reach what is behind the table with a selector of its choice. That of IDTR is
        // FFFFh, too: with 256 gates no vector is beyond it.
        unsafe {
            self.msrs.kernel_gs_base = rdmsr(msr::IA32_KERNEL_GSBASE);
            cpu.host.msrs.replace(&self.msrs);
            lgdt(&cpu.host.gdtr);
        }
        cpu.task_limit_lost = true;
    }

    /// Writes the VMCS back to memory.
    pub fn leave(&mut self, cpu: &mut CpuVirt) {
        if cpu.current == self.common.id {
            cpu.current = 0;
        }
        // SAFETY: the VMCS is active on this CPU only.
        let result = unsafe { vmcs::vmclear(self.vmcs()) };
        assert!(result.is_ok(), "VMCLEAR");
    }

    /// Makes everything ready for guest mode. The VMCS is current.
    pub fn prepare(&mut self, cpu: &CpuVirt, root: HostPhys, flush: bool) {
        self.take_back(&cpu.host);
        if flush {
            self.set_space(root, flush);
        }
        if self.common.to_do {
            self.prepare_more(cpu, root);
        }
        let cr3 = hw::cr3();
        if self.host_cr3 != cr3 {
            self.set_host_cr3(cr3);
        }
    }

    /// How guest mode was left; with `failed`, VMLAUNCH or VMRESUME failed.
    pub fn left(&mut self, cpu: &mut CpuVirt, failed: bool) -> Leave {
        let reason = vmcs::read(ro::EXIT_REASON) as u32;
        if failed || reason & exit::ENTRY_FAILED != 0 {
            return Leave::Ended(self.refused(failed, reason));
        }
        self.launched = true;
        let leave = exit::decode(reason, vmcs::read);
        match leave {
            Leave::Ended(Outcome::Exit(exit)) => {
                if exit::interrupts_delivery(exit.kind) {
                    self.note_interrupted(reason);
                }
                if exit.kind == ExitKind::WriteMsr
                    && self.write_switched_msr(exit.instruction_length, cpu)
                {
                    return Leave::Ended(Outcome::Resume);
                }
            }
            Leave::Exception(_) => self.note_interrupted(reason),
            _ => {}
        }
        leave
    }

    /// What the next entry needs and most do not.
    #[cold]
    fn prepare_more(&mut self, cpu: &CpuVirt, root: HostPhys) {
        if self.common.flush_linear {
            self.set_space(root, false);
        }
        if let Some(event) = self.common.pending.injectable(vmcs::read(field::CR0)) {
            // SAFETY: injection concerns the guest only; VM entry checks the event.
            unsafe {
                vmcs::write(control::VMENTRY_INTERRUPTION_INFO_FIELD, event & 0xffff_ffff);
                vmcs::write(control::VMENTRY_EXCEPTION_ERR_CODE, event >> 32);
            }
        }
        self.common.pending = Event::NONE;
        self.common.to_do = self.common.spins_exit || cpu.overwrites_buffers;
        if cpu.overwrites_buffers {
            overwrite_buffers();
        }
    }

    /// The processor did not enter guest mode: VMLAUNCH or VMRESUME failed, or the guest's state is not valid. What was to be
    /// injected waits, as if its delivery had been interrupted.
    #[cold]
    fn refused(&mut self, instruction_failed: bool, reason: u32) -> Outcome {
        let event = vmcs::read(control::VMENTRY_INTERRUPTION_INFO_FIELD) & 0xffff_ffff;
        let error = vmcs::read(control::VMENTRY_EXCEPTION_ERR_CODE);
        self.common.set_pending(Event(event | error << 32));
        // SAFETY: no injection is always valid.
        unsafe { vmcs::write(control::VMENTRY_INTERRUPTION_INFO_FIELD, 0) };
        if instruction_failed {
            return exit::instruction_failed(vmcs::read(ro::VM_INSTRUCTION_ERROR));
        }
        exit::entry_failed(reason, vmcs::read(ro::EXIT_QUALIFICATION))
    }

    #[cold]
    fn set_host_cr3(&mut self, cr3: u64) {
        self.host_cr3 = cr3;
        // SAFETY: the kernel runs with this CR3.
        unsafe { vmcs::write(host_field::CR3, cr3) };
    }

    /// Points the VMCS to a guest space, and drops the linear translations that are cached for it; with `flush`, all of them.
    #[cold]
    fn set_space(&mut self, root: HostPhys, flush: bool) {
        let (ept_pointer, vpid) = (root.0 | EPT_POINTER, u64::from(self.common.tag.tag));
        // SAFETY: the tables are those of the vCPU's guest space, by `prepare`'s caller.
        unsafe {
            vmcs::write(control::EPTP_FULL, ept_pointer);
            vmcs::write(control::VPID, vpid);
        }
        if flush {
            vmcs::invept(self.capabilities.invept, ept_pointer);
        }
        vmcs::invvpid(self.capabilities.invvpid, vpid);
        self.common.flush_linear = false;
    }

    /// Keeps the event whose delivery the exit interrupted, to be injected again.
    fn note_interrupted(&mut self, reason: u32) {
        let info = vmcs::read(ro::IDT_VECTORING_INFO) & 0xffff_ffff;
        if Event(info).is_none() {
            if exit::unblocked_nmi(reason, vmcs::read) {
                self.change_blocking(0, BLOCKING_NMI);
            }
            return;
        }
        let event = Event::from_processor(info | vmcs::read(ro::IDT_VECTORING_ERR_CODE) << 32);
        self.common.set_pending(event);
        if event.is_nmi() {
            // It is not delivered yet, so it does not block itself.
            self.change_blocking(BLOCKING_NMI, 0);
        }
    }

    #[inline(always)]
    fn change_blocking(&mut self, clear: u64, set: u64) {
        let old = vmcs::read(field::INTERRUPTIBILITY_STATE);
        let new = old & !clear | set;
        if new != old {
            // SAFETY: guest state; VM entry checks it.
            unsafe { vmcs::write(field::INTERRUPTIBILITY_STATE, new) };
        }
    }

    /// Does for a #DB what the processor leaves undone when it exits (Intel SDM 3C 28.1).
    #[cold]
    pub fn reflect_debug(&mut self) {
        const PRIVILEGED_SOFTWARE_EXCEPTION: u64 = 5 << 8;
        const TYPE: u64 = 7 << 8;
        // SAFETY: guest state, which VM entry checks.
        unsafe {
            if vmcs::read(ro::VMEXIT_INTERRUPTION_INFO) & TYPE == PRIVILEGED_SOFTWARE_EXCEPTION {
                // INT1: injected as if it were a trap, after the instruction.
                let next = vmcs::read(field::RIP) + vmcs::read(ro::VMEXIT_INSTRUCTION_LEN);
                vmcs::write(field::RIP, next);
                return;
            }
            let conditions = vmcs::read(ro::EXIT_QUALIFICATION);
            self.common.debug.raise(conditions);
            if conditions & DB_GENERAL_DETECT != 0 {
                vmcs::write(field::DR7, vmcs::read(field::DR7) & !DR7_GENERAL_DETECT);
            }
            // VM entry demands a pending single step in an interrupt shadow with TF (Intel SDM 3C 27.3.1.5).
            let shadow =
                vmcs::read(field::INTERRUPTIBILITY_STATE) & (BLOCKING_STI | BLOCKING_MOV_SS);
            if shadow != 0 && vmcs::read(field::RFLAGS) & state::RFLAGS_TF != 0 {
                self.trap_step();
            }
        }
    }

    /// Has the next entry raise the #DB of a single step, unless something is injected.
    #[cold]
    fn trap_step(&mut self) {
        let pending = vmcs::read(field::PENDING_DBG_EXCEPTIONS) | DB_SINGLE_STEP;
        // SAFETY: guest state, which VM entry checks.
        unsafe { vmcs::write(field::PENDING_DBG_EXCEPTIONS, pending) };
    }

    /// Makes `on` all of `controls` that are set. The VMCS is current.
    fn set_primary(&mut self, controls: PrimaryControls, on: PrimaryControls) {
        let value = self.primary & !controls.bits() | on.bits();
        if value != self.primary {
            self.primary = value;
            // SAFETY: only controls that do not weaken the host are changed this way.
            unsafe { vmcs::write(control::PRIMARY_PROCBASED_EXEC_CONTROLS, u64::from(value)) };
        }
    }

    #[inline(never)]
    fn set_exits(&mut self, control: PrimaryControls, on: bool) {
        self.set_primary(control, if on { control } else { PrimaryControls::empty() });
    }

    /// Emulates WRMSR of the SYSCALL MSRs: under SVM it does not exit, so monitors do not know it. Returns
    /// whether it was one.
    fn write_switched_msr(&mut self, instruction_length: u8, cpu: &mut CpuVirt) -> bool {
        let value = self.common.page.edx_eax();
        let is_canonical = cpu.limits.canonical(value) == value;
        let mut msrs = self.syscall_msrs(cpu);
        let (written, valid) = match peek!(self.common.page, gpr[RCX]) as u32 {
            msr::IA32_STAR => (&mut msrs.star, true),
            msr::IA32_LSTAR => (&mut msrs.lstar, is_canonical),
            msr::IA32_CSTAR => (&mut msrs.cstar, is_canonical),
            msr::IA32_FMASK => (&mut msrs.sfmask, value >> 32 == 0),
            _ => return false,
        };
        if !valid {
            self.common.set_pending(Event::exception(event::GP, Some(0)));
            return true;
        }
        *written = value;
        self.set_syscall_msrs(cpu, msrs);
        self.skip(instruction_length);
        true
    }

    /// The instruction of `length` bytes is done.
    #[inline(always)]
    fn skip(&mut self, length: u8) {
        let next = vmcs::read(field::RIP) + u64::from(length);
        // SAFETY: guest state, which VM entry checks.
        unsafe { vmcs::write(field::RIP, next) };
        self.end_shadow();
        if vmcs::read(field::RFLAGS) & state::RFLAGS_TF != 0 {
            self.trap_step();
        }
    }

    /// The manual defines the length for ports, and for EPT violations not (Intel SDM 3C 28.2.5), but processors write
    /// it for these too. Another hypervisor may not.
    pub fn skip_write(&mut self, exit: &Exit) -> bool {
        const LONGEST: u8 = 15;
        let length = match exit.kind {
            ExitKind::Io => exit.instruction_length,
            _ if self.capabilities.is_nested => 0,
            _ => vmcs::read(ro::VMEXIT_INSTRUCTION_LEN) as u8,
        };
        let known = (1..=LONGEST).contains(&length);
        if known {
            self.skip(length);
        }
        known
    }

    /// Bits of CR0 that the guest does not own.
    fn cr0_mask(&self) -> u64 {
        self.cr0_needed | cr0::CD | cr0::NW
    }

    /// Bits of CR4 that the guest does not own.
    fn cr4_mask(&self, allowed: u64) -> u64 {
        !allowed | self.cr4_needed
    }
}
