//! AArch64.

use crate::exit::compartment::{DEVICE_KICK, WAKER};
use crate::exit::monitor::{Device, Words, answer, fill_page, halted};
use crate::exit::plan::{KICK_DEVICE, VCPUS, state, table};
use abi::boot::{BootInfo, ROOT_MEMORY, Region, Virtualization};
use abi::syscall::DoorbellKind;
use abi::vcpu::aarch64::{CONTROL_HALT, Groups, LIST_EOI, LIST_REGISTERS, LIST_STATE, VcpuState};
use abi::vcpu::{ExitKind, fault_syndrome, instruction_length};
use abi::{Op, Rights, Selector, Status};
use bench_guest::{Arguments, arch as guest, place};
use core::arch::naked_asm;
use rt::env::register_key;
use rt::syscall::{self, DoorbellParameters, MapParameters};
use spin::Mutex;
use vmm::arch::aarch64::gic::lists::List;
use vmm::arch::aarch64::gic::sgi::Sgi;
use vmm::arch::aarch64::gic::{FIRST_SPI, Gic, Kicks, Version};
use vmm::arch::aarch64::state::StatePage;
use vmm::arch::aarch64::syndrome::{self, Access, SystemAccess};

/// What an exit of a kind saves.
pub fn saved(kind: ExitKind) -> u64 {
    use ExitKind as K;
    let groups = match kind {
        K::StageTwoFault | K::SystemRegister => Groups::PC,
        K::Kick => Groups::GIC,
        K::Halt => Groups::GIC.union(Groups::PC),
        _ => Groups::empty(),
    };
    groups.bits()
}

/// No portal is exchanged.
pub const EXCHANGED: Option<(ExitKind, u64)> = None;

/// The loop of a vCPU's handler. The identity of its portals is the address of the state page. A hypercall needs no answer, for the
/// program counter is past it; that is all that is measured of it.
#[unsafe(naked)]
pub extern "C" fn handle() -> ! {
    naked_asm!(
        "2: and w9, w2, #0xff",
        "cmp w9, #{hypercall}",
        "b.ne 3f",
        "mov x2, xzr",
        "mov x0, #{reply}",
        "svc #0",
        "b 2b",
        "3: mov x0, x1",
        "mov x1, x2",
        "mov x2, x3",
        "mov x3, x4",
        "mov x4, x5",
        "bl {answer}",
        "mov x2, x0",
        "mov x0, #{reply}",
        "svc #0",
        "b 2b",
        hypercall = const ExitKind::Hypercall as u8,
        reply = const Op::ReplyWait as u32,
        answer = sym answer,
    )
}

/// Where the thread starts that wakes vCPU 0: it waits for [`WAKER`] and signals [`DEVICE_KICK`], for ever.
#[unsafe(naked)]
pub extern "C" fn wake() -> ! {
    naked_asm!(
        "2: mov x0, #{wait}",
        "mov x1, #{waker}",
        "mov x2, #-1",
        "svc #0",
        "mov x0, #{signal}",
        "mov x1, #{kick}",
        "svc #0",
        "b 2b",
        wait = const Op::Wait as u32,
        signal = const Op::Signal as u32,
        waker = const WAKER.0,
        kick = const DEVICE_KICK.0,
    )
}

/// The interrupt controller of both vCPUs.
static GIC: Mutex<Option<Gic>> = Mutex::new(None);

/// What the guest is told, but for the rows; `None` if this machine has no virtualisation.
pub fn arguments(info: &BootInfo) -> Option<Arguments> {
    let here = Virtualization::from_code(info.virtualization) == Some(Virtualization::El2);
    here.then_some(Arguments {
        rows: 0,
        port_doorbell: 0,
        vmmcall: 0,
        gic: info.gic_version.into(),
    })
}

/// Gives the guest what it reaches of the interrupt controller without an exit: of a GICv2 the virtual CPU interface.
pub fn map_interface(info: &BootInfo, space: Selector, mapping: Selector) -> syscall::Result {
    let interface = info.gic_vcpu_interface;
    if info.gic_version != 2 {
        return Ok(());
    }
    let holds = |region: &Region| (region.base..region.base + region.size).contains(&interface);
    let regions = info.regions();
    let number = regions.iter().position(holds).ok_or(Status::BadArgument)?;
    let p = MapParameters {
        offset: interface - regions[number].base,
        address: guest::CPU_INTERFACE,
        size: INTERFACE_SIZE,
        rights: Rights::RW,
    };
    syscall::map(ROOT_MEMORY.offset(number as u32), space, mapping, &p)
}

/// Bytes of a GICv2's virtual CPU interface (IHI 0048, 5.5).
const INTERFACE_SIZE: u64 = 0x2000;

/// Where the guest rings.
pub fn doorbell(_arguments: &Arguments) -> DoorbellParameters {
    DoorbellParameters { kind: DoorbellKind::Memory, first: place::DOORBELL, size: 4 }
}

/// Prepares what all vCPUs use.
pub fn prepare(info: &BootInfo) {
    let version = match info.gic_version {
        3 => Version::V3,
        _ => Version::V2,
    };
    let vcpus = VCPUS as u32;
    *GIC.lock() = Some(Gic::new(version, vcpus, info.list_registers));
}

/// Halts a vCPU for ever.
pub fn park(number: usize) -> u64 {
    state_page(number).set_controls(CONTROL_HALT);
    Groups::CONTROLS.bits()
}

fn state_page(number: usize) -> StatePage {
    // SAFETY: the kernel maps it there before the first exit, and its handler alone uses it.
    unsafe { StatePage::new(state(number) as usize) }
}

/// A vCPU.
pub struct Vcpu {
    number: usize,
    state: StatePage,
    device: Device,
    /// It waits for an interrupt.
    halted: bool,
}

impl Vcpu {
    /// A vCPU; nothing of it runs before its first exit.
    pub fn new(number: usize) -> Vcpu {
        Vcpu { number, state: state_page(number), device: Device::default(), halted: false }
    }

    /// Answers an exit. `None`: it is none that this guest should make.
    pub fn exit(&mut self, kind: ExitKind, words: &Words) -> Option<Groups> {
        use ExitKind as K;
        match kind {
            K::StageTwoFault => self.fault(words),
            K::SystemRegister => self.system_register(words[1] as u32),
            K::Halt => self.halt(instruction_length(words[0])),
            K::Kick => self.kick(words[1]),
            K::Startup => Some(self.start()),
            _ => None,
        }
    }

    fn start(&mut self) -> Groups {
        let mut start = trial::initial_state(place::RAM.start);
        start.gpr[0] = self.number as u64;
        start.vmpidr |= self.number as u64;
        // SAFETY: the kernel has mapped the state page there, and the vCPU waits for this answer.
        unsafe { (state(self.number) as *mut VcpuState).write_volatile(start) };
        Groups::all()
    }

    /// Moves on behind the instruction that caused the exit.
    #[inline(always)]
    fn skip(&mut self, length: u64) -> Groups {
        self.state.set_pc(self.state.pc().wrapping_add(length));
        Groups::PC
    }

    fn fault(&mut self, words: &Words) -> Option<Groups> {
        let (esr, address) = (fault_syndrome(words[1]), words[2]);
        if fill_page(address) {
            return Some(Groups::empty());
        }
        let access = Access::decode(esr)?;
        let value = access.truncate(self.state.gpr(access.register));
        let read = if Device::is_at(address) {
            match access.write {
                true => {
                    self.device.write(address, value);
                    0
                }
                false => self.device.read(address),
            }
        } else {
            self.controller(&access, address, value)?
        };
        if !access.write {
            self.state.set_gpr(access.register, access.extend(read));
        }
        let groups = self.skip(syndrome::instruction_length(esr));
        if self.device.ended {
            return Some(groups | Groups::from_bits_truncate(park(self.number)));
        }
        Some(groups)
    }

    /// An access to the distributor or a redistributor. Nothing is pending for a vCPU that makes one but what reaches it by a kick.
    fn controller(&mut self, access: &Access, address: u64, value: u64) -> Option<u64> {
        let (number, size) = (self.number, access.size);
        with_gic(|gic, kicks| {
            let (frame, offset) = gic.frame(address)?;
            if access.write {
                gic.write(number, frame, offset, size, value, kicks);
                return Some(0);
            }
            Some(gic.read(number, frame, offset, size, kicks))
        })
    }

    fn system_register(&mut self, esr: u32) -> Option<Groups> {
        let access = SystemAccess::decode(esr)?;
        let value = self.state.gpr(access.register);
        match (access.key, access.read) {
            // ACTLR_EL1 and the identification registers read as zero.
            (ACTLR_EL1, true) => self.state.set_gpr(access.register, 0),
            (key, true) if IDENTIFICATION.contains(&key) => {
                self.state.set_gpr(access.register, 0);
            }
            (ICC_SGI1R_EL1, false) => {
                let sgi = Sgi::from_system_register(value, true);
                with_gic(|gic, kicks| {
                    gic.send(self.number, sgi, kicks);
                    Some(())
                })?;
            }
            _ => return None,
        }
        Some(self.skip(syndrome::instruction_length(esr)))
    }

    fn halt(&mut self, length: u64) -> Option<Groups> {
        self.halted = true;
        let groups = self.skip(length) | self.interrupts(|_, _| {})?;
        if self.halted {
            halted(self.number);
        }
        Some(groups)
    }

    fn kick(&mut self, bits: u64) -> Option<Groups> {
        self.interrupts(|gic, kicks| {
            if bits & KICK_DEVICE != 0 {
                gic.pulse(guest::INTERRUPT - FIRST_SPI, kicks);
            }
        })
    }

    /// Takes the interrupts back from the list registers, acts, and fills them again. A vCPU in WFI goes on if an interrupt waits for
    /// it then, or stays halted.
    fn interrupts(&mut self, act: impl FnOnce(&mut Gic, &mut Kicks)) -> Option<Groups> {
        let (mut old, mut new): (List, List) = ([0; LIST_REGISTERS], [0; LIST_REGISTERS]);
        let control = with_gic(|gic, kicks| {
            for (i, value) in old.iter_mut().enumerate().take(gic.list_registers()) {
                let content = self.state.list(i);
                if content & (LIST_STATE | LIST_EOI) != 0 {
                    *value = content;
                }
            }
            gic.fold(self.number, &old);
            act(gic, kicks);
            let control = gic.fill(self.number, &mut new, kicks);
            kicks.remove(self.number);
            Some(control)
        })?;
        for (i, value) in new.into_iter().enumerate() {
            self.state.set_list(i, value);
        }
        self.state.set_gic_control(control);
        self.halted &= !Gic::wakes(&new, self.state.vmcr());
        let mut groups = Groups::GIC;
        if self.halted {
            self.state.set_controls(CONTROL_HALT);
            groups |= Groups::CONTROLS;
        }
        Some(groups)
    }
}

const ACTLR_EL1: u16 = register_key(3, 0, 1, 0, 1);
const ICC_SGI1R_EL1: u16 = register_key(3, 0, 12, 11, 5);
/// Registers with op0 3, op1 0 and CRn 0, from CRm 1 on (Arm ARM D18.3.1).
const IDENTIFICATION: core::ops::RangeInclusive<u16> =
    register_key(3, 0, 0, 1, 0)..=register_key(3, 0, 0, 7, 7);

/// Does something with the interrupt controller, then has vCPUs look at their interrupts: no handler runs while another one holds the
/// lock.
fn with_gic<T>(act: impl FnOnce(&mut Gic, &mut Kicks) -> Option<T>) -> Option<T> {
    let mut kicks = Kicks::default();
    let result = act(GIC.lock().as_mut()?, &mut kicks);
    for vcpu in kicks.each() {
        let _ = syscall::signal(table::KICKS.offset(vcpu as u32));
    }
    result
}
