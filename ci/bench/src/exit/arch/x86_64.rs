//! x86-64.

use crate::exit::compartment::{DEVICE_KICK, WAKER};
use crate::exit::monitor::{Device, Words, answer, fill_page, halted};
use crate::exit::plan::{KICK_DEVICE, KICK_VCPU, RAM, RAM_SIZE, VCPUS, state, table};
use abi::boot::{BootInfo, Virtualization};
use abi::syscall::DoorbellKind;
use abi::vcpu::x86_64::{
    CONTROL_HALT, CONTROL_INTERRUPT_WINDOW, EVENT_INTERRUPT, EVENT_VALID, Groups, RAX, RBX, RCX,
    RDI, RDX, SHADOW_INTERRUPT, VcpuState,
};
use abi::vcpu::{ExitKind, FAULT_WRITE, instruction_length};
use abi::{Op, Rights, Selector};
use bench_guest::{Arguments, arch as guest, place};
use core::arch::naked_asm;
use core::cell::UnsafeCell;
use core::mem::offset_of;
use core::sync::atomic::{AtomicU64, Ordering};
use rt::shared::SharedMemory;
use rt::syscall::{self, DoorbellParameters};
use vmm::arch::x86_64::apic::local::{Effect, LocalApic};
use vmm::arch::x86_64::apic::message::Destination;
use vmm::arch::x86_64::exits::EMULATION;
use vmm::arch::x86_64::instruction;
use vmm::arch::x86_64::instruction::mmio::{self, Bus, Fault};
use vmm::arch::x86_64::state::StatePage;
use vmm::memory::{GuestPhys, GuestRam};

/// What an exit of a kind saves.
pub fn saved(kind: ExitKind) -> u64 {
    use ExitKind as K;
    let groups = match kind {
        K::Hypercall | K::Cpuid | K::Io | K::ReadMsr | K::WriteMsr | K::Pause => Groups::RIP,
        K::StageTwoFault => EMULATION,
        K::Kick | K::InterruptWindow => INJECTION,
        K::Halt => INJECTION.union(Groups::RIP),
        _ => Groups::empty(),
    };
    groups.bits()
}

/// What is needed to decide about an injection.
const INJECTION: Groups = Groups::EVENTS.union(Groups::RSP_RFLAGS);

/// The kind of exits whose portal the monitor exchanges, and what it saves then: for writes to MSRs that the state page holds.
pub const EXCHANGED: Option<(ExitKind, u64)> = Some((ExitKind::WriteMsr, WIDE.bits()));

/// What a write to such an MSR needs.
const WIDE: Groups = Groups::RIP.union(Groups::CONTROL).union(Groups::SYSCALL);

/// The loop of a vCPU's handler. The identity of its portals is the address of the state page. A hypercall is
/// answered here, by stepping over it; that is all that is measured of it.
#[unsafe(naked)]
pub extern "C" fn handle() -> ! {
    naked_asm!(
        "2: cmp sil, {hypercall}",
        "jne 3f",
        "add qword ptr [rdi + {rip}], 3",
        "mov esi, {changed}",
        "mov eax, {reply}",
        "syscall",
        "jmp 2b",
        "3: mov rcx, r8",
        "mov r8, r9",
        "call {answer}",
        "mov rsi, rax",
        "mov eax, {reply}",
        "syscall",
        "jmp 2b",
        hypercall = const ExitKind::Hypercall as u8,
        rip = const offset_of!(VcpuState, rip),
        changed = const Groups::RIP.bits(),
        reply = const Op::ReplyWait as u32,
        answer = sym answer,
    )
}

/// Where the thread starts that wakes vCPU 0: it waits for [`WAKER`] and signals [`DEVICE_KICK`], for ever.
#[unsafe(naked)]
pub extern "C" fn wake() -> ! {
    naked_asm!(
        "2: mov eax, {wait}",
        "mov edi, {waker}",
        "mov rsi, -1",
        "syscall",
        "mov eax, {signal}",
        "mov edi, {kick}",
        "syscall",
        "jmp 2b",
        wait = const Op::Wait as u32,
        signal = const Op::Signal as u32,
        waker = const WAKER.0,
        kick = const DEVICE_KICK.0,
    )
}

/// RFLAGS.IF.
const INTERRUPTS_ON: u64 = 1 << 9;
/// Word 1 of a port access: it reads.
const IO_IN: u64 = 1 << 24;

/// MSRs that the state page holds.
mod msr {
    pub const APIC_BASE: u32 = 0x1b;
    pub const EFER: u32 = 0xc000_0080;
    pub const STAR: u32 = 0xc000_0081;
    pub const LSTAR: u32 = 0xc000_0082;
    pub const SFMASK: u32 = 0xc000_0084;
    pub const KERNEL_GS_BASE: u32 = 0xc000_0102;
    /// First of the x2APIC's registers, and the one behind them.
    pub const X2APIC: core::ops::Range<u32> = 0x800..0x840;
}

/// Vectors of interrupts on their way from one vCPU to the other, as bits from [`guest::IPI`] on.
static SENT: [AtomicU64; VCPUS] = [const { AtomicU64::new(0) }; VCPUS];

/// The guest's RAM, as the decoder reads it.
struct Ram(UnsafeCell<Option<GuestRam>>);

// SAFETY: `prepare` comes before whoever reads it.
unsafe impl Sync for Ram {}

static GUEST_RAM: Ram = Ram(UnsafeCell::new(None));

/// Prepares what all vCPUs use. Needs a heap.
pub fn prepare(_info: &BootInfo) {
    instruction::prepare();
    // SAFETY: mapped in the monitor's space for this purpose alone.
    let memory = unsafe { SharedMemory::new(RAM as usize, RAM_SIZE as usize) };
    let ram = GuestRam::new([(GuestPhys(place::RAM.start), memory)]);
    // SAFETY: before there are handlers.
    unsafe { *GUEST_RAM.0.get() = ram.ok() };
}

/// What the guest is told, but for the rows; `None` if this machine has no virtualisation.
pub fn arguments(info: &BootInfo) -> Option<Arguments> {
    let svm = match Virtualization::from_code(info.virtualization) {
        Some(Virtualization::Svm) => 1,
        Some(Virtualization::Vmx) => 0,
        _ => return None,
    };
    Some(Arguments {
        rows: 0,
        // SVM does not say how long the instruction is that writes to memory.
        port_doorbell: svm,
        vmmcall: svm,
        gic: 0,
    })
}

/// Gives the guest what it reaches of the interrupt controller without an exit: nothing.
pub fn map_interface(_info: &BootInfo, _guest: Selector, _mapping: Selector) -> syscall::Result {
    Ok(())
}

/// Where the guest rings.
pub fn doorbell(arguments: &Arguments) -> DoorbellParameters {
    match arguments.port_doorbell {
        0 => DoorbellParameters { kind: DoorbellKind::Memory, first: place::DOORBELL, size: 4 },
        _ => DoorbellParameters {
            kind: DoorbellKind::Ports,
            first: place::DOORBELL_PORT.into(),
            size: 1,
        },
    }
}

/// Halts a vCPU for ever.
pub fn park(number: usize) -> u64 {
    let mut state = state_page(number);
    state.set_inject(0);
    state.set_interrupt_shadow(0);
    state.set_controls(CONTROL_HALT);
    Groups::EVENTS.bits()
}

fn state_page(number: usize) -> StatePage {
    // SAFETY: the kernel maps it there before the first exit, and its handler alone uses it.
    unsafe { StatePage::new(state(number) as usize) }
}

/// A vCPU.
pub struct Vcpu {
    number: usize,
    state: StatePage,
    apic: LocalApic,
    device: Device,
    /// The portal of [`EXCHANGED`] is the one that saves more.
    wide: bool,
}

/// The device, as an instruction that is emulated reaches it.
struct Devices<'a>(&'a mut Device);

impl Bus for Devices<'_> {
    fn read(&mut self, at: GuestPhys, _size: u8) -> u64 {
        self.0.read(at.0)
    }

    fn write(&mut self, at: GuestPhys, _size: u8, value: u64) {
        self.0.write(at.0, value);
    }
}

impl Vcpu {
    /// A vCPU; nothing of it runs before its first exit.
    pub fn new(number: usize) -> Vcpu {
        Vcpu {
            number,
            state: state_page(number),
            apic: LocalApic::new(number as u32),
            device: Device::default(),
            wide: false,
        }
    }

    /// Answers an exit. `None`: it is none that this guest should make.
    pub fn exit(&mut self, kind: ExitKind, words: &Words) -> Option<Groups> {
        use ExitKind as K;
        let length = instruction_length(words[0]);
        match kind {
            K::Cpuid => Some(self.cpuid(length)),
            K::Io => self.port(length, words),
            K::StageTwoFault => self.fault(words),
            K::ReadMsr => self.read_msr(length),
            K::WriteMsr => self.write_msr(length),
            K::Halt => Some(self.halt(length)),
            K::Kick => Some(self.kick(words[1])),
            K::InterruptWindow => Some(self.deliver()),
            K::Pause => Some(self.skip(length)),
            K::Startup => Some(self.start()),
            _ => None,
        }
    }

    fn start(&mut self) -> Groups {
        let mut start = trial::initial_state(place::RAM.start);
        start.gpr[RDI] = self.number as u64;
        // SAFETY: the kernel has mapped the state page there, and the vCPU waits for this answer.
        unsafe { (state(self.number) as *mut VcpuState).write_volatile(start) };
        Groups::all()
    }

    /// Moves on behind the instruction that caused the exit.
    #[inline(always)]
    fn skip(&mut self, length: u64) -> Groups {
        self.state.set_rip(self.state.rip().wrapping_add(length));
        Groups::RIP
    }

    /// The leaf that the guest asks for: how many there are, and the name.
    fn cpuid(&mut self, length: u64) -> Groups {
        const NAME: [u32; 3] = [u32::from_le_bytes(*b"bulk"), u32::from_le_bytes(*b"head"), 0];
        self.state.set_gpr(RAX, guest::CPUID_LEAF.into());
        for (register, word) in [RBX, RDX, RCX].into_iter().zip(NAME) {
            self.state.set_gpr(register, word.into());
        }
        self.skip(length)
    }

    fn port(&mut self, length: u64, words: &Words) -> Option<Groups> {
        if words[1] as u16 != place::PORT.into() || words[1] & IO_IN == 0 {
            return None;
        }
        let rax = self.state.gpr(RAX) & !0xff | u64::from(place::PORT_VALUE);
        self.state.set_gpr(RAX, rax);
        Some(self.skip(length))
    }

    fn fault(&mut self, words: &Words) -> Option<Groups> {
        let (flags, address) = (words[1], words[2]);
        if Device::is_at(address) {
            let fault = Fault { at: GuestPhys(address), write: flags & FAULT_WRITE != 0 };
            // SAFETY: written before there are handlers.
            let ram = unsafe { &*GUEST_RAM.0.get() }.as_ref()?;
            let mut bus = Devices(&mut self.device);
            let groups = mmio::emulate(ram, &mut self.state, fault, &mut bus).ok()?;
            if self.device.ended {
                return Some(groups | Groups::from_bits_truncate(park(self.number)));
            }
            return Some(groups);
        }
        fill_page(address).then_some(Groups::empty())
    }

    fn read_msr(&mut self, length: u64) -> Option<Groups> {
        let number = self.state.gpr(RCX) as u32;
        let value = match number {
            guest::MSR => 1,
            msr::APIC_BASE => self.apic.base(),
            _ if msr::X2APIC.contains(&number) => {
                let register = number - msr::X2APIC.start;
                self.apic.read(register, rt::arch::counter()).ok()?.into()
            }
            _ => return None,
        };
        self.state.set_gpr(RAX, value & 0xffff_ffff);
        self.state.set_gpr(RDX, value >> 32);
        Some(self.skip(length))
    }

    fn write_msr(&mut self, length: u64) -> Option<Groups> {
        let number = self.state.gpr(RCX) as u32;
        let value = self.state.gpr(RDX) << 32 | self.state.gpr(RAX) & 0xffff_ffff;
        if msr::X2APIC.contains(&number) {
            let register = number - msr::X2APIC.start;
            let effect = self.apic.write_msr(register, value, rt::arch::counter());
            if let Effect::Send(message) = effect.ok()? {
                self.send(message.destination, message.vector)?;
            }
            return Some(self.skip(length));
        }
        if number == msr::APIC_BASE {
            self.apic.set_base(value).ok()?;
            return Some(self.skip(length));
        }
        if !self.wide {
            // The guest runs into the same exit again.
            self.exchange(true)?;
            return Some(Groups::empty());
        }
        let state = &mut self.state;
        match number {
            msr::EFER => state.set_efer(value),
            msr::STAR => state.set_star(value),
            msr::LSTAR => state.set_lstar(value),
            msr::SFMASK => state.set_sfmask(value),
            msr::KERNEL_GS_BASE => state.set_kernel_gs_base(value),
            _ => return None,
        }
        self.exchange(false)?;
        Some(Groups::CONTROL | Groups::SYSCALL | self.skip(length))
    }

    /// Exchanges the portal of [`EXCHANGED`].
    fn exchange(&mut self, wide: bool) -> Option<()> {
        let place = table::portal(self.number, ExitKind::WriteMsr as u32);
        let [usual, more] = table::exchanged(self.number);
        let portal = if wide { more } else { usual };
        syscall::delete(place).ok()?;
        syscall::delegate(portal, table::DOMAIN, place, Rights::CALL).ok()?;
        self.wide = wide;
        Some(())
    }

    fn send(&mut self, to: Destination, vector: u8) -> Option<()> {
        let Destination::Physical(target) = to else {
            return None;
        };
        let mail = SENT.get(target as usize)?;
        mail.fetch_or(1 << vector.checked_sub(guest::IPI)?, Ordering::Relaxed);
        syscall::signal(table::KICKS.offset(target)).ok()
    }

    fn halt(&mut self, length: u64) -> Groups {
        self.state.set_interrupt_shadow(0);
        let groups = self.skip(length) | self.deliver();
        if self.state.inject() & EVENT_VALID == 0 {
            self.state.set_controls(CONTROL_HALT);
            halted(self.number);
        }
        groups
    }

    fn kick(&mut self, bits: u64) -> Groups {
        if bits & KICK_DEVICE != 0 {
            self.apic.accept(guest::INTERRUPT, false);
        }
        if bits & KICK_VCPU != 0 {
            let sent = SENT[self.number].swap(0, Ordering::Relaxed);
            for bit in (0..8).filter(|bit| sent >> bit & 1 != 0) {
                self.apic.accept(guest::IPI + bit, false);
            }
        }
        self.deliver()
    }

    /// Injects the next interrupt, or asks for an exit as soon as the guest can take it.
    fn deliver(&mut self) -> Groups {
        let state = &mut self.state;
        let interrupted = state.interrupted();
        let open = interrupted & EVENT_VALID == 0
            && state.rflags() & INTERRUPTS_ON != 0
            && state.interrupt_shadow() & SHADOW_INTERRUPT == 0;
        let taken = if open { self.apic.acknowledge() } else { None };
        let event =
            taken.map_or(interrupted, |vector| EVENT_VALID | EVENT_INTERRUPT | u64::from(vector));
        state.set_inject(event);
        let waits = self.apic.pending().is_some();
        state.set_controls(if waits { CONTROL_INTERRUPT_WINDOW } else { 0 });
        Groups::EVENTS
    }
}
