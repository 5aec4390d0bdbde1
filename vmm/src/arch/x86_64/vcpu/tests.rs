use super::*;
use crate::arch::x86_64::acpi::Serial;
use crate::arch::x86_64::apic::local::{BASE, register};
use crate::arch::x86_64::boot::load::Start;
use crate::arch::x86_64::clock::Clock;
use crate::arch::x86_64::cpuid::{self, Leaf};
use crate::memory::GuestPhys;
use crate::memory::testing::ram;
use crate::state::testing::page;
use abi::vcpu::EXIT_KINDS;
use abi::vcpu::x86_64::{CONTROL_HALT, EVENT_INTERRUPT, RDI, RSI, Segment};
use proptest::prelude::*;
use std::cell::{Cell, RefCell};
use std::rc::Rc;

/// What the vCPU did to the world.
#[derive(Clone, Default)]
struct World {
    counter: Rc<Cell<u64>>,
    serial: Rc<RefCell<Vec<u8>>>,
    widened: Rc<RefCell<Vec<(ExitKind, bool)>>>,
    stopped: Rc<Cell<Option<StopReason>>>,
}

impl Platform for World {
    fn counter(&self) -> u64 {
        self.counter.get()
    }

    fn serial_read(&mut self, _register: u32) -> u32 {
        0x60
    }

    fn serial_write(&mut self, _register: u32, value: u32) {
        self.serial.borrow_mut().push(value as u8);
    }

    fn kick(&mut self, _vcpu: u32) {}

    fn widen(&mut self, kind: ExitKind, wide: bool) {
        self.widened.borrow_mut().push((kind, wide));
    }

    fn stopped(&mut self, reason: StopReason) {
        assert_eq!(self.stopped.replace(Some(reason)), None);
    }
}

const BOOT: u64 = 1 << 40;
const IF: u64 = 1 << 9;

fn vcpu() -> (Vcpu<World>, World) {
    let parameters = cpuid::Parameters {
        xcr0_mask: 7,
        vcpus: 1,
        tsc_hz: 1_000_000_000,
    };
    let vm = Box::leak(Box::new(Vm {
        ram: ram(&[(0, 0x1_0000)]),
        start: Start {
            entry: 0x1000,
            zero_page: 0x7000,
            cr3: 0x8000,
            gdt: 0x6000,
            gdt_limit: 31,
        },
        cpuid: cpuid::Table::new(|_, _| Leaf::default(), &parameters),
        clock: Clock::new(1_000_000_000),
        serial: Some(Serial {
            port: 0x3f8,
            line: 4,
        }),
        io_apic: Default::default(),
        vcpus: 1,
    }));
    let world = World::default();
    world.counter.set(BOOT);
    let mut vcpu = Vcpu::new(vm, 0, page(), world.clone());
    assert_eq!(exit(&mut vcpu, ExitKind::Startup, [0; 3]), Groups::all());
    // For emulated instructions: flat protected mode, no paging.
    vcpu.state.set_cr0(1);
    vcpu.state.set_efer(0);
    vcpu.state.set_cs(Segment {
        access: 0xc09b,
        limit: u32::MAX,
        ..Segment::default()
    });
    (vcpu, world)
}

fn exit(vcpu: &mut Vcpu<World>, kind: ExitKind, info: [u64; 3]) -> Groups {
    let length = 2 << 8;
    vcpu.exit(&[kind as u64 | length, info[0], info[1], info[2], 0, 0, 0, 0])
}

fn write_msr(vcpu: &mut Vcpu<World>, number: u32, value: u64) -> Groups {
    vcpu.state.set_gpr(RCX, number.into());
    vcpu.state.set_gpr(RAX, value & 0xffff_ffff);
    vcpu.state.set_gpr(RDX, value >> 32);
    exit(vcpu, ExitKind::WriteMsr, [0; 3])
}

fn x2apic(vcpu: &mut Vcpu<World>) {
    write_msr(vcpu, 0x1b, BASE | 0xd00);
    write_msr(vcpu, 0x800 + register::SVR, 0x1ff);
}

const DEADLINE: u32 = 0x6e0;
const EOI: u32 = 0x80b;
const SELF_IPI: u32 = 0x83f;

fn interrupt(vector: u64) -> u64 {
    EVENT_VALID | EVENT_INTERRUPT | vector
}

#[test]
fn timer_from_deadline_to_end_of_interrupt() {
    let (mut vcpu, world) = vcpu();
    x2apic(&mut vcpu);
    write_msr(&mut vcpu, 0x832, 0x4_00ec);
    // The guest's counter started at 0.
    let groups = write_msr(&mut vcpu, DEADLINE, 1000);
    assert_eq!(groups, Groups::RIP | Groups::DEADLINE);
    assert_eq!(vcpu.state.deadline(), BOOT + 1000);
    assert_eq!(write_msr(&mut vcpu, DEADLINE, 1000), Groups::RIP);
    world.counter.set(BOOT + 1001);
    // Interrupts are off: it waits for the window.
    vcpu.state.set_rflags(0);
    let groups = exit(&mut vcpu, ExitKind::Kick, [0, 1, 0]);
    assert_eq!(groups, Groups::EVENTS);
    assert_eq!(vcpu.state.inject(), 0);
    assert_eq!(vcpu.state.controls(), CONTROL_INTERRUPT_WINDOW);
    vcpu.state.set_rflags(IF);
    exit(&mut vcpu, ExitKind::InterruptWindow, [0; 3]);
    assert_eq!(vcpu.state.inject(), interrupt(0xec));
    assert_eq!(vcpu.state.controls(), 0);
    // It is armed anew, though the kernel has seen the value before.
    vcpu.state.set_inject(0);
    let groups = write_msr(&mut vcpu, DEADLINE, 1000);
    assert_eq!(groups, Groups::RIP | Groups::DEADLINE);
    assert_eq!(write_msr(&mut vcpu, EOI, 0), Groups::RIP);
    assert_eq!(vcpu.apic.read(register::ISR + 7, 0), Ok(0));
}

#[test]
fn an_interrupted_event_goes_first() {
    let (mut vcpu, _) = vcpu();
    x2apic(&mut vcpu);
    let groups = write_msr(&mut vcpu, SELF_IPI, 0x40);
    assert_eq!(groups, Groups::RIP | Groups::EVENTS);
    assert_eq!(vcpu.state.controls(), CONTROL_INTERRUPT_WINDOW);
    vcpu.state.set_rflags(IF);
    let page_fault = EVENT_VALID | EVENT_EXCEPTION | EVENT_ERROR | 14 | 6 << 32;
    vcpu.state.set_interrupted(page_fault);
    exit(&mut vcpu, ExitKind::Kick, [0; 3]);
    assert_eq!(vcpu.state.inject(), page_fault);
    assert_eq!(vcpu.state.controls(), CONTROL_INTERRUPT_WINDOW);
    // In an interrupt shadow it still waits, then it comes.
    vcpu.state.set_interrupted(0);
    vcpu.state.set_interrupt_shadow(1);
    assert_eq!(exit(&mut vcpu, ExitKind::Kick, [0; 3]), Groups::empty());
    vcpu.state.set_interrupt_shadow(0);
    exit(&mut vcpu, ExitKind::InterruptWindow, [0; 3]);
    assert_eq!(vcpu.state.inject(), interrupt(0x40));
}

#[test]
fn halt_ends_with_an_interrupt_and_with_nothing_else() {
    let (mut vcpu, world) = vcpu();
    x2apic(&mut vcpu);
    vcpu.state.set_rflags(IF);
    vcpu.state.set_rip(0x1000);
    vcpu.state.set_interrupt_shadow(1);
    let groups = exit(&mut vcpu, ExitKind::Halt, [0; 3]);
    assert_eq!(groups, Groups::RIP | Groups::EVENTS);
    assert_eq!(vcpu.state.controls(), CONTROL_HALT);
    assert_eq!(
        (vcpu.state.rip(), vcpu.state.interrupt_shadow()),
        (0x1002, 0)
    );
    // Line 4 is masked: back to sleep. The halt is one reply's worth: the kernel saves 0.
    vcpu.state.set_controls(0);
    assert_eq!(
        exit(&mut vcpu, ExitKind::Kick, [1 << 4, 0, 0]),
        Groups::EVENTS
    );
    assert_eq!(vcpu.state.controls(), CONTROL_HALT);
    // Unmasked, the edge that came is there; lines that do not exist are nobody's.
    vcpu.lines().write_io_apic(0, 0x18);
    vcpu.lines().write_io_apic(0x10, 0x33);
    exit(&mut vcpu, ExitKind::Kick, [!0xff_ffff, 0, 0]);
    assert_eq!(
        (vcpu.state.inject(), vcpu.state.controls()),
        (interrupt(0x33), 0)
    );
    assert_eq!(world.stopped.get(), None);
    // With interrupts off nothing can ever come.
    vcpu.state.set_rflags(0);
    exit(&mut vcpu, ExitKind::Halt, [0; 3]);
    assert_eq!(world.stopped.get(), Some(StopReason::GuestPanic));
    exit(&mut vcpu, ExitKind::Kick, [1 << 4, 1, 0]);
    assert_eq!(vcpu.state.controls(), CONTROL_HALT);
}

#[test]
fn interrupts_end_without_an_exit_unless_another_waits() {
    let (mut vcpu, _) = vcpu();
    x2apic(&mut vcpu);
    let word = GuestPhys(0x3000);
    write_msr(&mut vcpu, kvm::msr::PV_EOI, word.0 | 1);
    vcpu.state.set_rflags(IF);
    let send = |vcpu: &mut Vcpu<World>, vector| {
        write_msr(vcpu, SELF_IPI, vector);
        vcpu.state.set_inject(0);
        exit(vcpu, ExitKind::InterruptWindow, [0; 3]);
        vcpu.state.inject()
    };
    assert_eq!(send(&mut vcpu, 0x41), interrupt(0x41));
    assert_eq!(vcpu.vm.ram.read_u32(word), Ok(1));
    // The guest ends it; the next of the same class can come.
    vcpu.vm.ram.write(word, &[0; 4]).unwrap();
    assert_eq!(send(&mut vcpu, 0x42), interrupt(0x42));
    // One more of that class waits: the guest must exit to end the first.
    assert_eq!(send(&mut vcpu, 0x43), 0);
    assert_eq!(vcpu.vm.ram.read_u32(word), Ok(0));
    write_msr(&mut vcpu, EOI, 0);
    exit(&mut vcpu, ExitKind::InterruptWindow, [0; 3]);
    assert_eq!(vcpu.state.inject(), interrupt(0x43));
}

#[test]
fn state_that_is_seldom_needed_is_asked_for() {
    let (mut vcpu, world) = vcpu();
    vcpu.state.set_rip(0x1000);
    assert_eq!(write_msr(&mut vcpu, 0xc000_0080, 0x901), Groups::empty());
    assert_eq!(world.widened.take(), [(ExitKind::WriteMsr, true)]);
    vcpu.state.set_efer(0x500);
    vcpu.state.set_cr0(1);
    assert_eq!(
        write_msr(&mut vcpu, 0xc000_0080, 0x901),
        Groups::CONTROL | Groups::RIP
    );
    assert_eq!((vcpu.state.efer(), vcpu.state.rip()), (0xd01, 0x1002));
    assert_eq!(world.widened.take(), [(ExitKind::WriteMsr, false)]);
    // What does not exist is #GP at the instruction, whose address stays.
    assert_eq!(write_msr(&mut vcpu, 0x10a, 0), Groups::EVENTS);
    let protection = EVENT_VALID | EVENT_EXCEPTION | EVENT_ERROR | 13;
    assert_eq!(
        (vcpu.state.inject(), vcpu.state.rip()),
        (protection, 0x1002)
    );
}

#[test]
fn ports_reach_their_devices() {
    let (mut vcpu, world) = vcpu();
    let io = |port: u64, size: u64, flags: u64| [port | size << 16 | flags << 24, 0, 0];
    vcpu.state.set_gpr(RAX, 0x1234_5678_9abc_de41);
    exit(&mut vcpu, ExitKind::Io, io(0x3f8, 1, 0));
    exit(&mut vcpu, ExitKind::Io, io(0x3fd, 1, 1));
    assert_eq!(vcpu.state.gpr(RAX), 0x1234_5678_9abc_de60);
    exit(&mut vcpu, ExitKind::Io, io(0xcfc, 4, 1));
    assert_eq!(vcpu.state.gpr(RAX), 0xffff_ffff);
    // rep outsb: a second exit brings the state that it needs.
    vcpu.vm.ram.write(GuestPhys(0x1000), &[0xf3, 0x6e]).unwrap();
    vcpu.vm.ram.write(GuestPhys(0x2000), b"BC").unwrap();
    vcpu.state.set_rip(0x1000);
    vcpu.state.set_gpr(RSI, 0x2000);
    vcpu.state.set_gpr(RCX, 2);
    exit(&mut vcpu, ExitKind::Io, io(0x3f8, 1, 6));
    assert_eq!(exit(&mut vcpu, ExitKind::Io, io(0x3f8, 1, 6)), Groups::RIP);
    assert_eq!(*world.serial.borrow(), b"ABC");
    // Power off.
    vcpu.state.set_gpr(RAX, 0x34);
    exit(&mut vcpu, ExitKind::Io, io(0x600, 1, 0));
    assert_eq!(world.stopped.get(), Some(StopReason::PowerOff));
    assert_eq!(vcpu.state.controls(), CONTROL_HALT);
}

#[test]
fn device_memory() {
    let (mut vcpu, _) = vcpu();
    vcpu.state.set_rip(0x1000);
    // mov [edi], eax; mov eax, [edi]
    let code = [0x89, 0x07, 0x8b, 0x07];
    vcpu.vm.ram.write(GuestPhys(0x1000), &code).unwrap();
    vcpu.state.set_gpr(RDI, BASE + 0xf0);
    vcpu.state.set_gpr(RAX, 0x1ff);
    exit(&mut vcpu, ExitKind::StageTwoFault, [2, BASE + 0xf0, 0]);
    vcpu.state.set_gpr(RAX, 0);
    exit(&mut vcpu, ExitKind::StageTwoFault, [1, BASE + 0xf0, 0]);
    assert_eq!((vcpu.state.gpr(RAX), vcpu.state.rip()), (0x1ff, 0x1004));
    // Nothing there: ones.
    vcpu.state.set_rip(0x1002);
    exit(&mut vcpu, ExitKind::StageTwoFault, [1, 0xe000_0000, 0]);
    assert_eq!(vcpu.state.gpr(RAX), 0xffff_ffff);
    // Nothing to execute there either.
    exit(&mut vcpu, ExitKind::StageTwoFault, [4, 0xe000_0000, 0]);
    assert_eq!(vcpu.state.inject(), EVENT_VALID | EVENT_EXCEPTION | 6);
}

proptest! {
    /// Whatever a guest does, the monitor goes on, or says that the VM has ended.
    #[test]
    fn no_exit_is_a_danger(
        exits in proptest::collection::vec((0..EXIT_KINDS as u8, any::<[u64; 3]>(), any::<[u64; 4]>()), 1..50),
        small in any::<[u16; 8]>(),
        state in any::<[u64; 10]>(),
        memory in proptest::collection::vec(any::<u8>(), 256),
    ) {
        let (mut vcpu, _) = vcpu();
        x2apic(&mut vcpu);
        vcpu.vm.ram.write(GuestPhys(0x1000), &memory).unwrap();
        vcpu.state.set_cr0(state[0]);
        vcpu.state.set_cr3(state[1] & 0x3000);
        vcpu.state.set_cr4(state[2]);
        vcpu.state.set_efer(state[3]);
        vcpu.state.set_rflags(state[4]);
        vcpu.state.set_interrupted(state[5]);
        vcpu.state.set_interrupt_shadow(state[6]);
        for (i, (kind, info, gprs)) in exits.into_iter().enumerate() {
            let numbers = [0x10, 0x1b, 0x6e0, 0x80b, 0x830, 0x832, 0x838, 0x83f, 0x2ff, 0xc000_0080,
                0xc000_0103, 0x4b56_4d00, 0x4b56_4d01, 0x4b56_4d04, 0x802, 0x828];
            let number = if small[i % 8] % 3 == 0 { gprs[1] } else { numbers[gprs[1] as usize % 16] };
            vcpu.state.set_gpr(RAX, gprs[0]);
            vcpu.state.set_gpr(RCX, number);
            vcpu.state.set_gpr(RDX, if small[i % 8] % 2 == 0 { 0 } else { gprs[2] });
            vcpu.state.set_gpr(RDI, gprs[3] & 0xffff);
            vcpu.state.set_rip(0x1000 + u64::from(small[i % 8] & 0xff));
            vcpu.platform.counter.set(BOOT + gprs[0] % 1_000_000);
            let near = [info[0] & 0x4_ffff_ffff, BASE + (info[1] & 0xff0), info[2]];
            let words = [kind as u64 | 2 << 8, near[0], near[1], near[2], 0, 0, 0, 0];
            vcpu.exit(&words);
        }
    }
}
