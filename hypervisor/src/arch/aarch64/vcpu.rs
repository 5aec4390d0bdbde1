//! The Arm part of a vCPU.
//!
//! A vCPU's registers stay in the CPU while threads run, until another vCPU is entered there; so the round trip to a
//! monitor moves only the general registers and those that act on threads.

use super::clock;
use super::entry::{self, cause};
use super::features::{CNTHCTL_GUEST, HCR_SERROR, HCR_WAIT_EVENT, has_aarch32};
use super::firmware::smccc;
use super::interrupts::virtual_interface::{self, ENABLE, Interface};
use super::sysreg::{isb, read, write};
use super::traps::{self, class};
use super::virt::{El1, Errors, Fp, Identity, Keys, Matrix, StatePage, Thread, Timer, peek, poke};
use crate::cell::Ref;
use crate::context::State;
use crate::cpu::Cpu;
use crate::doorbell;
use crate::mem::KernelPage;
use crate::space::Space;
use crate::vcpu::{Exit, Vcpu};
use abi::vcpu::aarch64::{
    CONTROL_HALT, CONTROL_SERROR, GIC_ENTRY_NOT_PRESENT, GIC_NO_PENDING, GIC_UNDERFLOW, Groups,
    LIST_EOI, LIST_GROUP1, LIST_INTID, LIST_SOURCE_SHIFT, LIST_STATE,
};
use abi::vcpu::{ExitKind, FAULT_FETCH, FAULT_LINEAR, FAULT_READ, FAULT_WRITE};

/// Pages that a vCPU takes beside its own and its state page.
pub fn pages_per_vcpu() -> Option<usize> {
    Some(0)
}

/// What the monitor asked for in its reply.
pub struct VcpuReply {
    /// Do not run until a kick, the deadline or the virtual timer.
    pub halt: bool,
    /// The new deadline, if it changed.
    pub deadline: Option<u64>,
    /// A timer of the vCPU's own may have changed.
    pub timer: bool,
}

/// How guest mode ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Outcome {
    /// Tell the monitor.
    Exit {
        /// What.
        exit: Exit,
        /// Unless a doorbell is there: a write to memory of one register, by an instruction that does nothing else.
        plain_write: bool,
    },
    /// An interrupt of the machine is pending.
    Interrupt,
    /// Enter again, after looking for kicks.
    Resume,
}

impl Outcome {
    #[inline(always)]
    const fn exit(kind: ExitKind, instruction_length: u8, info: [u64; 3]) -> Outcome {
        Outcome::Exit { exit: Exit { kind, instruction_length, info }, plain_write: false }
    }
}

/// Does what ended guest mode, if it was the host's; the exit for the monitor otherwise. Interrupts can end any
/// object: nothing that the caller holds is certain to be there after `None`.
#[inline(always)]
pub fn after_guest(cpu: &Cpu, vcpu: Ref<Vcpu>, outcome: Outcome) -> Option<Exit> {
    match outcome {
        Outcome::Exit { exit, plain_write } => {
            (!plain_write || !doorbell::ring(cpu, vcpu, &exit)).then_some(exit)
        }
        Outcome::Interrupt => {
            traps::interrupts(cpu);
            None
        }
        Outcome::Resume => None,
    }
}

/// The virtual timer of the vCPU that is loaded has fired: it is masked, and the monitor will be told.
pub fn timer_fired(cpu: &Cpu) {
    if let Some(vcpu) = cpu.arch.guest.get()
        && Timer::take_loaded()
    {
        vcpu.arch.with_mut(|arch| arch.note(TIMER_FIRED));
        if vcpu.context.state.get() == State::Halted {
            vcpu.context.wake(cpu);
        }
    }
}

/// Exception class and fault status codes of aborts (Arm ARM D17.2.37).
mod abort {
    /// Write, not read.
    pub const WRITE: u64 = 1 << 6;
    /// The fault is in a walk of the guest's own tables.
    pub const WALK: u64 = 1 << 7;
    /// FAR_EL2 is not valid.
    pub const NO_ADDRESS: u64 = 1 << 10;

    /// Type of the fault, without the level.
    pub const fn status(syndrome: u64) -> u64 {
        syndrome >> 2 & 0xf
    }
    /// Whether an instruction wrote one register and did nothing else: ISV is set for none with write-back. Cache
    /// maintenance (CM) counts as a write, too.
    pub const fn is_plain_write(syndrome: u64) -> bool {
        const DESCRIBED: u64 = 1 << 24;
        const MAINTENANCE: u64 = 1 << 8;
        super::class::of(syndrome) == super::class::DATA_ABORT
            && syndrome & (DESCRIBED | WRITE | MAINTENANCE | WALK) == DESCRIBED | WRITE
    }
    pub const ADDRESS_SIZE: u64 = 0;
    pub const TRANSLATION: u64 = 1;
    pub const ACCESS_FLAG: u64 = 2;
    pub const PERMISSION: u64 = 3;
}

/// SPSR bits that a monitor sets: flags, DIT, UAO, PAN, SSBS, BTYPE, exception masks and mode.
const PSTATE_64: u64 = 0xf1c0_1fdf;
/// The same for AArch32 at EL0: all but IL and SS.
const PSTATE_32: u64 = 0xffcf_ffff;
/// BTYPE: which the instruction after a branch has to suit.
const PSTATE_BRANCH_TYPE: u64 = 3 << 10;
/// AArch32.
const PSTATE_IS_32: u64 = 1 << 4;
/// EL1h with everything masked.
const PSTATE_DEFAULT: u64 = 0x3c5;

fn pstate(asked: u64) -> u64 {
    match asked & 0x1f {
        0b00000 | 0b00100 | 0b00101 => asked & PSTATE_64,
        // Where the CPU has it: else the return would be illegal, and stay at EL2 (Arm ARM D1.4.4).
        0b10000 if has_aarch32() => asked & PSTATE_32,
        _ => PSTATE_DEFAULT,
    }
}

/// What a monitor can ask of the virtual CPU interface.
const GIC_CONTROLS: u64 = GIC_UNDERFLOW | GIC_ENTRY_NOT_PRESENT | GIC_NO_PENDING;
/// What a monitor can put into a list register: no tie to an interrupt of the machine.
const LIST_BITS: u64 =
    LIST_STATE | LIST_GROUP1 | 0xff << 48 | LIST_EOI | LIST_INTID | 7 << LIST_SOURCE_SHIFT;

/// When the virtual CPU interface may ask for maintenance. While it does, it asks again and again, before all other
/// interrupts: so it is on only where the asking ends guest mode and is told to the monitor.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Maintained {
    /// Never: it is always on.
    Never,
    /// In guest mode; it is off outside.
    InGuest,
    /// It has asked: it is off until the monitor has changed it.
    Silenced,
}

/// Registers of a vCPU.
pub struct VcpuArch {
    page: StatePage,
    pc: u64,
    pstate: u64,
    /// Always here outside of guest mode.
    thread: Thread,
    /// Here unless `resident`, like those below.
    el1: El1,
    timer: Timer,
    identity: Identity,
    keys: Keys,
    errors: Errors,
    matrix: Matrix,
    interface: Interface,
    fp: Fp,
    resident: bool,
    maintained: Maintained,
    /// What the monitor was not told yet: [`TIMER_FIRED`]; why the interface has asked for maintenance (ICH_MISR_EL2).
    events: u64,
    /// HCR_EL2.VSE, if a virtual SError is pending.
    serror: u64,
    /// One of the above makes entry and exit longer ([`VcpuArch::note`]).
    to_do: bool,
}

/// The virtual timer has fired. Above the bits of ICH_MISR_EL2.
const TIMER_FIRED: u64 = 1 << 63;

impl VcpuArch {
    /// A vCPU with its state page.
    pub fn new(_pages: &[KernelPage], state: KernelPage) -> VcpuArch {
        VcpuArch {
            page: StatePage::new(state),
            pc: 0,
            pstate: PSTATE_DEFAULT,
            thread: Thread::default(),
            el1: El1::default(),
            timer: Timer::default(),
            identity: Identity::default(),
            keys: Keys::default(),
            errors: Errors::default(),
            matrix: Matrix::default(),
            interface: Interface::default(),
            fp: Fp::default(),
            resident: false,
            maintained: Maintained::Never,
            events: 0,
            serror: 0,
            to_do: true,
        }
    }

    /// When the virtual timer fires, if it is not loaded: else the processor looks after it.
    pub fn timer_deadline(&self) -> Option<u64> {
        self.timer_at(clock::now())
    }

    /// As [`VcpuArch::timer_deadline`], seen at `now`: `now` itself if it is due.
    fn timer_at(&self, now: u64) -> Option<u64> {
        self.timer.fires_at(now).filter(|_| !self.resident)
    }

    /// Has the virtual timer fire, if it is due and not loaded.
    pub fn look_at_timer(&mut self, now: u64) {
        if self.timer_at(now) == Some(now) {
            self.timer.mask();
            self.note(TIMER_FIRED);
        }
    }

    /// Whether the monitor has to be told something though the guest does not run.
    #[inline(always)]
    pub fn has_event(&self) -> bool {
        self.events != 0
    }

    /// Adds to the events; finds out what the next entry has to do.
    fn note(&mut self, event: u64) {
        self.events |= event;
        self.to_do = !self.resident
            || self.events | self.serror != 0
            || self.maintained == Maintained::InGuest;
    }

    /// Enters guest mode, until something ends it, which leads to [`traps::guest_left`]. The vCPU is the one in
    /// `cpu.arch.guest`.
    ///
    /// Returns what is to be told first, without having been there.
    #[inline(always)]
    pub fn enter(&mut self, cpu: &Cpu, guest: &Space) -> Option<Exit> {
        // Who spins gives way, if there is anybody to give way to.
        let mut hcr = if cpu.is_contended() { HCR_WAIT_EVENT } else { 0 };
        if self.to_do {
            if let Some(exit) = self.prepare(cpu, guest) {
                return Some(exit);
            }
            hcr |= self.serror;
        }
        cpu.arch.load_guest_space(guest, hcr);
        self.thread.load();
        write!("cnthctl_el2", CNTHCTL_GUEST);
        write!("elr_el2", self.pc);
        write!("spsr_el2", self.pstate);
        // SAFETY: the state page begins with the registers; the machine's state is the guest's.
        unsafe { entry::enter_guest(cpu, self.page.as_ptr() as u64) }
    }

    /// What the next entry needs and most do not; or the exit to be told instead.
    #[cold]
    fn prepare(&mut self, cpu: &Cpu, guest: &Space) -> Option<Exit> {
        if self.has_event() {
            return Some(self.take_event());
        }
        if !self.resident {
            super::forget_other_vcpus(cpu.index, guest);
            self.make_resident();
        }
        if self.maintained == Maintained::InGuest {
            virtual_interface::set_control(ENABLE | self.interface.control);
        }
        None
    }

    /// Guest mode was left for the reason `why` ([`cause`]).
    #[inline(always)]
    pub fn leave(&mut self, why: u64) -> Outcome {
        self.pc = read!("elr_el2");
        self.pstate = read!("spsr_el2");
        self.thread.save();
        if self.to_do {
            self.settle();
        }
        // As long as the machine's state is the guest's.
        let outcome = match why {
            cause::SYNCHRONOUS => self.decode(),
            cause::INTERRUPT => Outcome::Interrupt,
            // SError: the monitor decides what becomes of its guest.
            _ => Outcome::exit(ExitKind::Other, 0, [read!("esr_el2"), 0, 0]),
        };
        Thread::load_for_threads();
        outcome
    }

    /// What an exit after [`VcpuArch::prepare`] needs.
    #[cold]
    fn settle(&mut self) {
        self.serror &= read!("hcr_el2");
        if self.maintained == Maintained::InGuest {
            let reasons = virtual_interface::maintenance();
            virtual_interface::set_control(0);
            if reasons != 0 {
                self.interface.control = 0;
                self.maintained = Maintained::Silenced;
                self.events |= reasons;
            }
        }
        self.note(0);
    }

    fn take_event(&mut self) -> Exit {
        let timer = self.events & TIMER_FIRED;
        let (kind, info) = if timer != 0 {
            self.events &= !TIMER_FIRED;
            (ExitKind::VirtualTimer, 0)
        } else {
            (ExitKind::InterruptController, core::mem::take(&mut self.events))
        };
        self.note(0);
        Exit { kind, instruction_length: 0, info: [info, 0, 0] }
    }

    #[cold]
    fn make_resident(&mut self) {
        self.el1.load();
        self.identity.load();
        self.timer.load();
        self.keys.load();
        self.errors.load();
        self.matrix.load();
        self.fp.load();
        self.load_virtual_interface();
        self.resident = true;
        self.note(0);
        isb();
    }

    /// Has the guest go on after the write that `exit` tells.
    pub fn skip_write(&mut self, exit: &Exit) -> bool {
        self.skip(exit.instruction_length);
        true
    }

    /// Moves on behind an instruction of AArch64, which is no branch.
    fn skip(&mut self, length: u8) {
        self.pc = self.pc.wrapping_add(u64::from(length));
        self.pstate &= !PSTATE_BRANCH_TYPE;
    }

    /// Takes the registers out of the CPU.
    pub fn suspend(&mut self) {
        if !self.resident {
            return;
        }
        self.resident = false;
        self.note(0);
        self.el1.save();
        self.timer.save();
        self.keys.save();
        self.errors.save();
        self.matrix.save();
        self.fp.save();
        virtual_interface::save(&mut self.interface);
        virtual_interface::set_control(0);
        Timer::stop_loaded();
    }

    /// Writes the groups in `groups` to the state page.
    #[inline(always)]
    pub fn save(&mut self, _cpu: &Cpu, groups: u64) {
        poke!(self.page, self.pc, pc);
        poke!(self.page, self.pstate, pstate);
        let groups = Groups::from_bits_truncate(groups);
        if groups.intersects(Groups::SYSTEM | Groups::TIMER | Groups::GIC) {
            self.save_more(groups);
        }
    }

    #[inline(never)]
    fn save_more(&mut self, groups: Groups) {
        let page = self.page;
        if groups.contains(Groups::SYSTEM) {
            self.el1.to_page(page, self.resident);
            self.thread.to_page(page, false);
        }
        if groups.contains(Groups::TIMER) {
            self.timer.to_page(page, self.resident);
        }
        if groups.contains(Groups::GIC) {
            if self.resident {
                virtual_interface::save(&mut self.interface);
            }
            poke!(page, self.interface.control, gic_control);
            poke!(page, self.interface.vmcr, vmcr);
            poke!(page, self.interface.active, active_priorities);
            poke!(page, self.interface.list, list);
        }
    }

    /// Takes the groups in `groups` from the state page.
    #[inline(always)]
    pub fn load(&mut self, _cpu: &Cpu, groups: u64) -> VcpuReply {
        let groups = Groups::from_bits_truncate(groups);
        if groups.contains(Groups::PC) {
            self.pc = peek!(self.page, pc);
        }
        if groups.difference(Groups::PC).is_empty() {
            VcpuReply { halt: false, deadline: None, timer: false }
        } else {
            self.load_more(groups)
        }
    }

    #[inline(never)]
    fn load_more(&mut self, groups: Groups) -> VcpuReply {
        let page = self.page;
        if groups.contains(Groups::PSTATE) {
            self.pstate = pstate(peek!(page, pstate));
        }
        if groups.contains(Groups::SYSTEM) {
            self.el1.take_from_page(page, self.resident);
            self.thread.take_from_page(page, false);
        }
        if groups.contains(Groups::TIMER) {
            self.timer.take_from_page(page, self.resident);
        }
        if groups.contains(Groups::IDENTITY) {
            self.identity.take_from_page(page, self.resident);
        }
        if groups.contains(Groups::GIC) {
            self.load_interface();
        }
        let controls = if groups.contains(Groups::CONTROLS) { peek!(page, controls) } else { 0 };
        if controls & CONTROL_SERROR != 0 {
            self.serror = HCR_SERROR;
            self.note(0);
        }
        VcpuReply {
            halt: controls & CONTROL_HALT != 0,
            deadline: groups.contains(Groups::DEADLINE).then(|| peek!(page, deadline)),
            timer: groups.contains(Groups::TIMER),
        }
    }

    fn load_interface(&mut self) {
        let page = self.page;
        self.interface = Interface {
            control: peek!(page, gic_control) & GIC_CONTROLS,
            vmcr: peek!(page, vmcr) & 0xffff_ffff,
            active: peek!(page, active_priorities),
            list: peek!(page, list).map(|list| list & LIST_BITS),
        };
        let asks =
            self.interface.control != 0 || self.interface.list.iter().any(|l| l & LIST_EOI != 0);
        self.maintained = if asks { Maintained::InGuest } else { Maintained::Never };
        self.note(0);
        if self.resident {
            self.load_virtual_interface();
        }
    }

    /// Loads the interface, on if that asks for nothing.
    fn load_virtual_interface(&self) {
        virtual_interface::load(&self.interface);
        virtual_interface::set_control(match self.maintained {
            Maintained::Never => ENABLE,
            Maintained::InGuest | Maintained::Silenced => 0,
        });
    }

    /// Takes the vCPU off this CPU, before it ends or goes to another one.
    pub fn leave_cpu(&mut self, cpu: &Cpu) {
        self.suspend();
        if let Some(loaded) = cpu.arch.guest.get()
            && core::ptr::eq(loaded.arch.as_ptr(), self)
        {
            cpu.arch.guest.set(None);
        }
    }
}

impl VcpuArch {
    /// What a synchronous exception of the guest means, as long as the machine's state is the guest's.
    #[inline(always)]
    fn decode(&mut self) -> Outcome {
        let syndrome = read!("esr_el2");
        // IL: the instruction has 32 bits.
        let length = if syndrome & 1 << 25 != 0 { 4 } else { 2 };
        match class::of(syndrome) {
            class::WAIT if syndrome & 1 == 0 => Outcome::exit(ExitKind::Halt, length, [0; 3]),
            class::WAIT => Outcome::exit(ExitKind::Pause, length, [0; 3]),
            class::HYPERCALL if self.mitigates(syndrome, 0) => Outcome::Resume,
            class::FIRMWARE_CALL if self.mitigates(syndrome, length) => Outcome::Resume,
            class::HYPERCALL => Outcome::exit(ExitKind::Hypercall, 0, [syndrome, 0, 0]),
            class::FIRMWARE_CALL => Outcome::exit(ExitKind::FirmwareCall, length, [syndrome, 0, 0]),
            class::SYSTEM_REGISTER => {
                Outcome::exit(ExitKind::SystemRegister, length, [syndrome, 0, 0])
            }
            class::INSTRUCTION_ABORT | class::DATA_ABORT => match fault(syndrome) {
                Some(info) => {
                    let exit =
                        Exit { kind: ExitKind::StageTwoFault, instruction_length: length, info };
                    let plain_write =
                        abort::is_plain_write(syndrome) && self.pstate & PSTATE_IS_32 == 0;
                    Outcome::Exit { exit, plain_write }
                }
                None if abort::status(syndrome) > abort::PERMISSION => {
                    Outcome::exit(ExitKind::Other, 0, [syndrome, 0, 0])
                }
                None => Outcome::Resume,
            },
            _ => Outcome::exit(ExitKind::Other, 0, [syndrome, 0, 0]),
        }
    }

    /// Makes the guest's call to firmware, if it is for a mitigation that firmware knows; whether it was. The call's
    /// instruction, `length` bytes, is done then.
    #[inline(always)]
    fn mitigates(&mut self, syndrome: u64, length: u8) -> bool {
        // The instruction's immediate is 0 in all calls.
        let is_call = smccc::serves() && syndrome & 0xffff == 0;
        let done = is_call && smccc::serve(peek!(self.page, gpr[0]));
        if done {
            self.skip(length);
        }
        done
    }
}

/// Qualification of a stage-2 fault; `None` if it is no such fault, or the guest has changed its tables since.
fn fault(syndrome: u64) -> Option<[u64; 3]> {
    let address = read!("far_el2");
    let in_walk = syndrome & abort::WALK != 0;
    let page = match abort::status(syndrome) {
        abort::ADDRESS_SIZE | abort::TRANSLATION | abort::ACCESS_FLAG => fault_page(),
        abort::PERMISSION if in_walk => fault_page(),
        // HPFAR_EL2 does not hold it then (Arm ARM D17.2.62).
        abort::PERMISSION => entry::translate(address)?,
        _ => return None,
    };
    let mut flags = if class::of(syndrome) == class::INSTRUCTION_ABORT {
        FAULT_FETCH
    } else if syndrome & abort::WRITE != 0 {
        FAULT_WRITE
    } else {
        FAULT_READ
    };
    if syndrome & abort::NO_ADDRESS == 0 && !in_walk {
        flags |= FAULT_LINEAR;
    }
    let offset = if in_walk { 0 } else { address & 0xfff };
    Some([flags | syndrome << 32, page | offset, address])
}

/// HPFAR_EL2: bits 51:12 of the address are in 43:4.
fn fault_page() -> u64 {
    (read!("hpfar_el2") & 0xfff_ffff_fff0) << 8
}
