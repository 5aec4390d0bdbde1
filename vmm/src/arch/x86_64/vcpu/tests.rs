use super::*;
use crate::arch::x86_64::acpi::Serial;
use crate::arch::x86_64::apic::local::{BASE, register};
use crate::arch::x86_64::boot::load::Start;
use crate::arch::x86_64::clock::Clock;
use crate::arch::x86_64::cpuid::{self, Leaf};
use crate::memory::GuestPhys;
use crate::memory::testing::ram;
use crate::platform::KICK_VCPU;
use crate::platform::testing::World;
use crate::state::testing::page;
use crate::wide::TICKS;
use abi::vcpu::EXIT_KINDS;
use abi::vcpu::x86_64::{
    CONTROL_HALT, EVENT_INTERRUPT, EVENT_NMI, RDI, RSI, SHADOW_INTERRUPT, SHADOW_NMI, Segment,
};
use core::sync::atomic::{AtomicBool, AtomicU32};
use proptest::prelude::*;

const BOOT: u64 = 1 << 40;
const IF: u64 = 1 << 9;

fn vcpu() -> (Vcpu<World>, World) {
    let (mut vcpus, world) = machine(1);
    (vcpus.remove(0), world)
}

/// A VM whose first vCPU has started, and the others wait for that.
fn machine(count: u32) -> (Vec<Vcpu<World>>, World) {
    let parameters = cpuid::Parameters { xcr0_mask: 7, vcpus: count, tsc_hz: 1_000_000_000 };
    let vm = Box::leak(Box::new(Vm {
        ram: ram(&[(0, 0x1_0000)]),
        start: Start { entry: 0x1000, zero_page: 0x7000, cr3: 0x8000, gdt: 0x6000, gdt_limit: 31 },
        cpuid: cpuid::Table::new(|_, _| Leaf::default(), &parameters),
        clock: Clock::new(1_000_000_000),
        serial: Some(Serial { port: 0x3f8, line: 4 }),
        io_apic: Default::default(),
        mailboxes: Default::default(),
        vcpus: count,
        alive: AtomicU32::new(1),
        tsc_offset: BOOT.wrapping_neg(),
        stopped: AtomicBool::new(false),
    }));
    let world = World::default();
    world.counter.set(BOOT);
    let mut vcpus: Vec<_> = (0..count).map(|id| Vcpu::new(vm, id, page(), world.clone())).collect();
    for vcpu in &mut vcpus {
        assert_eq!(exit(vcpu, ExitKind::Startup, [0; 3]), Groups::all());
    }
    // For emulated instructions: flat protected mode, no paging.
    let vcpu = &mut vcpus[0];
    vcpu.state.set_cr0(1);
    vcpu.state.set_efer(0);
    vcpu.state.set_cs(Segment { access: 0xc09b, limit: u32::MAX, ..Segment::default() });
    (vcpus, world)
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
    assert_eq!((vcpu.state.rip(), vcpu.state.interrupt_shadow()), (0x1002, 0));
    // Line 4 is masked: back to sleep. The halt is one reply's worth: the kernel saves 0.
    vcpu.state.set_controls(0);
    assert_eq!(exit(&mut vcpu, ExitKind::Kick, [1 << 4, 0, 0]), Groups::EVENTS);
    assert_eq!(vcpu.state.controls(), CONTROL_HALT);
    // Unmasked, the edge that came is there; lines that do not exist are nobody's.
    vcpu.lines().write_io_apic(0, 0x18);
    vcpu.lines().write_io_apic(0x10, 0x33);
    exit(&mut vcpu, ExitKind::Kick, [!0xff_ffff, 0, 0]);
    assert_eq!((vcpu.state.inject(), vcpu.state.controls()), (interrupt(0x33), 0));
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
    assert_eq!(write_msr(&mut vcpu, 0xc000_0080, 0x901), Groups::CONTROL | Groups::RIP);
    assert_eq!((vcpu.state.efer(), vcpu.state.rip()), (0xd01, 0x1002));
    // It stays so for some time, as a change interrupts every CPU of the machine.
    for _ in 1..TICKS {
        assert_ne!(write_msr(&mut vcpu, 0xc000_0080, 0x901), Groups::empty());
        exit(&mut vcpu, ExitKind::Kick, [0; 3]);
    }
    assert_eq!(world.widened.take(), []);
    exit(&mut vcpu, ExitKind::Kick, [0; 3]);
    assert_eq!(world.widened.take(), [(ExitKind::WriteMsr, false)]);
    vcpu.state.set_rip(0x1002);
    // What does not exist is #GP at the instruction, whose address stays.
    assert_eq!(write_msr(&mut vcpu, 0x10a, 0), Groups::EVENTS);
    let protection = EVENT_VALID | EVENT_EXCEPTION | EVENT_ERROR | 13;
    assert_eq!((vcpu.state.inject(), vcpu.state.rip()), (protection, 0x1002));
}

#[test]
fn a_vcpu_that_spins_gives_way() {
    let (mut vcpu, world) = vcpu();
    assert_eq!(exit(&mut vcpu, ExitKind::Pause, [0; 3]), Groups::RIP);
    assert_eq!((vcpu.state.rip(), world.gave_way.get()), (0x1002, 1));
}

#[test]
fn ports_reach_their_devices() {
    let (mut vcpu, world) = vcpu();
    let io = |port: u64, size: u64, flags: u64| [port | size << 16 | flags << 24, 0, 0];
    vcpu.state.set_gpr(RAX, 0x1234_5678_9abc_de41);
    exit(&mut vcpu, ExitKind::Io, io(0x3f8, 1, 0));
    exit(&mut vcpu, ExitKind::Io, io(0x3fd, 1, 1));
    assert_eq!(vcpu.state.gpr(RAX), 0x1234_5678_9abc_de05);
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
    assert_eq!(world.serial.take(), b"ABC".map(|byte| (0, byte.into())));
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

const ICR: u32 = 0x830;
const INIT: u64 = 0x4500;
const STARTUP: u64 = 0x4600;
const NMI: u64 = 0x4400;

/// The vCPU takes the kick that others have sent it.
fn heed(vcpu: &mut Vcpu<World>) -> Groups {
    exit(vcpu, ExitKind::Kick, [KICK_VCPU, 0, 0])
}

/// Two vCPUs that run, in x2APIC mode.
fn two() -> (Vec<Vcpu<World>>, World) {
    let (mut vcpus, world) = machine(2);
    x2apic(&mut vcpus[0]);
    write_msr(&mut vcpus[0], ICR, 1 << 32 | INIT);
    write_msr(&mut vcpus[0], ICR, 1 << 32 | STARTUP | 0x9a);
    heed(&mut vcpus[1]);
    x2apic(&mut vcpus[1]);
    world.kicked.take();
    (vcpus, world)
}

#[test]
fn a_vcpu_starts_after_init_and_startup() {
    let (mut vcpus, world) = machine(2);
    x2apic(&mut vcpus[0]);
    let [first, second] = &mut vcpus[..] else { panic!() };
    assert_eq!(second.state.controls(), CONTROL_HALT);
    // What comes to one that waits is lost, but its reset and its start.
    for command in [0x40, NMI, 0xc500] {
        write_msr(first, ICR, 1 << 32 | command);
        heed(second);
        assert_eq!(second.state.controls(), CONTROL_HALT);
        assert_eq!(second.state.inject(), 0);
    }
    write_msr(first, ICR, 1 << 32 | INIT);
    assert!(world.kicked.take().ends_with(&[1]));
    assert!(heed(second).contains(Groups::EVENTS));
    assert_eq!(second.state.controls(), CONTROL_HALT);
    write_msr(first, ICR, 1 << 32 | STARTUP | 0x9a);
    write_msr(first, ICR, 1 << 32 | STARTUP | 0x9b);
    assert_eq!(world.kicked.take(), [1]);
    let groups = heed(second);
    assert!(groups.contains(Groups::CONTROL | Groups::CS_SS | Groups::SEGMENTS));
    assert!(!groups.intersects(Groups::PAT | Groups::TSC | Groups::XCR0 | Groups::SYSCALL));
    let state = &second.state;
    assert_eq!((state.cs().selector, state.cs().base), (0x9a00, 0x9_a000));
    assert_eq!((state.rip(), state.cr0(), state.efer()), (0, 0x10, 0));
    assert_eq!((state.rflags(), state.controls(), state.inject()), (2, 0, 0));
    // It runs: a start means nothing, an NMI is taken.
    write_msr(first, ICR, 1 << 32 | STARTUP | 0x55);
    assert_eq!(heed(second), Groups::empty());
    write_msr(first, ICR, 1 << 32 | NMI);
    heed(second);
    assert_eq!(second.state.inject(), EVENT_VALID | EVENT_NMI | 2);
    // Its counter is the other's.
    assert_eq!(second.tsc(), first.tsc());
    // A reset takes it off again, and its interrupts with it.
    x2apic(second);
    write_msr(second, kvm::msr::PV_EOI, 0x3001);
    write_msr(second, SELF_IPI, 0x40);
    write_msr(first, ICR, 1 << 32 | INIT);
    heed(second);
    assert_eq!(second.state.controls(), CONTROL_HALT);
    assert!(!second.apic.has_requests() && second.apic.is_x2apic());
    assert_eq!(second.pv_eoi, 0);
    assert_eq!(world.stopped.get(), None);
    // The first vCPU's reset is the machine's.
    write_msr(first, ICR, INIT);
    heed(first);
    assert_eq!(world.stopped.get(), Some(StopReason::Reset));
}

#[test]
fn interrupts_reach_the_vcpus_that_are_meant() {
    let (mut vcpus, world) = two();
    // Physical, logical, all, others; fixed and of lowest priority.
    for (command, targets) in [
        (1 << 32 | 0x40, &[1][..]),
        (2 << 32 | 0x840, &[1]),
        (3 << 32 | 0x840, &[0, 1]),
        (0x8_0040, &[0, 1]),
        (0xc_0040, &[1]),
        (0x4_0040, &[0]),
        (3 << 32 | 0x940, &[0]),
        (3 << 32 | 0x941, &[1]),
        (7 << 32 | 0x40, &[]),
        (1 << 48 | 0x840, &[]),
    ] {
        let vector = command & 0xff;
        write_msr(&mut vcpus[0], ICR, command);
        let others: Vec<u32> = targets.iter().copied().filter(|id| *id != 0).collect();
        assert_eq!(world.kicked.take(), others, "{command:#x}");
        for (id, vcpu) in vcpus.iter_mut().enumerate() {
            vcpu.state.set_rflags(IF);
            vcpu.state.set_inject(0);
            heed(vcpu);
            let meant = targets.contains(&(id as u32));
            let expected = if meant { interrupt(vector) } else { 0 };
            assert_eq!(vcpu.state.inject(), expected, "{command:#x} {id}");
            if meant {
                write_msr(vcpu, EOI, 0);
            }
        }
    }
    assert_eq!(world.stopped.get(), None);
}

#[test]
fn lines_are_routed_to_a_vcpu_which_ends_them() {
    let (mut vcpus, world) = two();
    // Pin 4, level-triggered, to the second vCPU.
    let [first, second] = &mut vcpus[..] else { panic!() };
    for (register, value) in [(0x19, 1 << 24), (0x18, 0x8033)] {
        second.lines().write_io_apic(0, register);
        second.lines().write_io_apic(0x10, value);
    }
    second.state.set_rflags(IF);
    for _ in 0..2 {
        exit(first, ExitKind::Kick, [1 << 4, 0, 0]);
        assert_eq!(first.state.inject(), 0);
        assert_eq!(world.kicked.take(), [1]);
        heed(second);
        assert_eq!(second.state.inject(), interrupt(0x33));
        // Only its end lets the next one through.
        exit(first, ExitKind::Kick, [1 << 4, 0, 0]);
        assert_eq!(world.kicked.take(), []);
        write_msr(second, EOI, 0);
        second.state.set_inject(0);
        exit(second, ExitKind::InterruptWindow, [0; 3]);
        assert_eq!(second.state.inject(), interrupt(0x33));
        write_msr(second, EOI, 0);
    }
}

#[test]
fn an_nmi_keeps_others_out_until_its_end() {
    let (mut vcpus, _) = two();
    let [first, second] = &mut vcpus[..] else { unreachable!() };
    write_msr(first, ICR, 1 << 32 | NMI);
    heed(second);
    assert_eq!(second.state.inject(), EVENT_VALID | EVENT_NMI | 2);
    // The end of the NMI, which the processor sees alone, is an exit.
    assert_eq!(second.state.controls(), CONTROL_NMI_WINDOW);
    // Its delivery is interrupted: it blocks others no less when it comes again.
    second.state.set_interrupted(EVENT_VALID | EVENT_NMI | 2);
    assert_eq!(exit(second, ExitKind::Kick, [0; 3]), Groups::EVENTS);
    second.state.set_interrupted(0);
    // Its handler sends itself an interrupt, as Linux does for what it cannot do there, and tries an MSR.
    second.state.set_inject(0);
    assert!(write_msr(second, SELF_IPI, 0x40).contains(Groups::EVENTS));
    assert_eq!(second.state.interrupt_shadow(), SHADOW_NMI);
    assert!(write_msr(second, 0x999, 0).contains(Groups::EVENTS));
    assert_eq!(second.state.interrupt_shadow(), SHADOW_NMI);
    // IRET.
    second.state.set_rflags(0);
    second.state.set_inject(0);
    second.state.set_interrupt_shadow(0);
    assert_eq!(exit(second, ExitKind::NmiWindow, [0; 3]), Groups::EVENTS);
    assert_eq!(second.state.controls(), CONTROL_INTERRUPT_WINDOW);
    write_msr(second, 0x999, 0);
    assert_eq!(second.state.interrupt_shadow(), 0);
}

#[test]
fn an_nmi_behind_sti_comes_when_the_processor_says_so() {
    let (mut vcpus, _) = two();
    let [first, second] = &mut vcpus[..] else { unreachable!() };
    second.state.set_interrupt_shadow(SHADOW_INTERRUPT);
    write_msr(first, ICR, 1 << 32 | NMI);
    heed(second);
    assert_eq!(second.state.inject(), 0);
    assert_eq!(second.state.controls(), CONTROL_NMI_WINDOW);
    assert_eq!(exit(second, ExitKind::NmiWindow, [0; 3]), Groups::EVENTS);
    assert_eq!(second.state.inject(), EVENT_VALID | EVENT_NMI | 2);
    assert_eq!(second.state.interrupt_shadow(), 0);
}

#[test]
fn a_counting_timer_does_not_care_for_the_tsc() {
    let (mut vcpu, world) = vcpu();
    x2apic(&mut vcpu);
    write_msr(&mut vcpu, 0x83e, 0b1011);
    write_msr(&mut vcpu, 0x832, 0x2_00ec);
    write_msr(&mut vcpu, 0x838, 1000);
    assert_eq!(vcpu.state.deadline(), BOOT + 1000);
    for tsc in [0, 1 << 62, 5000] {
        write_msr(&mut vcpu, 0x10, tsc);
        assert_eq!(vcpu.state.deadline(), BOOT + 1000, "{tsc:#x}");
    }
    world.counter.set(BOOT + 1001);
    exit(&mut vcpu, ExitKind::Kick, [0, 1, 0]);
    assert_eq!(vcpu.state.deadline(), BOOT + 2000);
    // A deadline is one of the TSC.
    write_msr(&mut vcpu, 0x832, 0x4_00ec);
    write_msr(&mut vcpu, DEADLINE, 9000);
    write_msr(&mut vcpu, 0x10, 8000);
    assert_eq!(vcpu.state.deadline(), BOOT + 1001 + 1000);
}

#[test]
fn a_deadline_that_never_comes_is_none() {
    let (mut vcpu, _) = vcpu();
    x2apic(&mut vcpu);
    write_msr(&mut vcpu, 0x832, 0x4_00ec);
    let never = i64::MAX as u64;
    for tsc in [never - BOOT, never - BOOT + 1, never, never + 1, u64::MAX] {
        write_msr(&mut vcpu, DEADLINE, tsc);
        let deadline = vcpu.state.deadline();
        assert!(deadline >= never, "{tsc:#x}: {deadline:#x}");
    }
    // With the TSC moved on, what is past is past.
    write_msr(&mut vcpu, 0x10, 1 << 62);
    write_msr(&mut vcpu, DEADLINE, 1);
    assert_eq!(vcpu.state.deadline(), 1);
}

#[test]
fn the_address_space_ends_where_it_begins() {
    let (mut vcpu, world) = vcpu();
    // CPUID in the last two bytes, as of a program of 32 bits: the processor refuses to go on behind it.
    vcpu.state.set_rip(0xffff_fffe);
    assert_eq!(exit(&mut vcpu, ExitKind::Cpuid, [0; 3]), Groups::RIP);
    assert_eq!(vcpu.state.rip(), 1 << 32);
    let event = interrupt(0x40);
    vcpu.state.set_interrupted(event);
    let groups = exit(&mut vcpu, ExitKind::InvalidState, [0; 3]);
    assert_eq!(groups, Groups::RIP | Groups::EVENTS);
    assert_eq!((vcpu.state.rip(), vcpu.state.inject()), (0, event));
    assert_eq!(world.stopped.get(), None);
    // Whatever else it refuses ends the VM.
    exit(&mut vcpu, ExitKind::InvalidState, [0; 3]);
    assert_eq!(world.stopped.take(), Some(StopReason::MonitorError));
}

#[test]
fn the_last_vcpu_that_halts_for_ever_ends_the_vm() {
    let (mut vcpus, world) = two();
    let [first, second] = &mut vcpus[..] else { panic!() };
    second.state.set_rflags(0);
    exit(second, ExitKind::Halt, [0; 3]);
    assert_eq!(second.state.controls(), CONTROL_HALT);
    assert_eq!(world.stopped.get(), None);
    // An NMI is on its way to it while the first one follows.
    first.state.set_rflags(0);
    write_msr(first, ICR, 1 << 32 | NMI);
    exit(first, ExitKind::Halt, [0; 3]);
    assert_eq!(world.stopped.get(), None);
    heed(second);
    assert_eq!(second.state.inject(), EVENT_VALID | EVENT_NMI | 2);
    second.state.set_rflags(0);
    second.state.set_interrupt_shadow(0);
    world.kicked.take();
    exit(second, ExitKind::Halt, [0; 3]);
    assert_eq!(world.stopped.get(), Some(StopReason::GuestPanic));
    // The other hears of it, and does nothing any more.
    assert_eq!(world.kicked.take(), [0]);
    heed(first);
    assert_eq!(first.state.controls(), CONTROL_HALT);
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
        let (mut vcpus, _) = two();
        for vcpu in &mut vcpus {
            vcpu.vm.ram.write(GuestPhys(0x1000), &memory).unwrap();
            vcpu.state.set_cr0(state[0]);
            vcpu.state.set_cr3(state[1] & 0x3000);
            vcpu.state.set_cr4(state[2]);
            vcpu.state.set_efer(state[3]);
            vcpu.state.set_rflags(state[4]);
            vcpu.state.set_interrupted(state[5]);
            vcpu.state.set_interrupt_shadow(state[6]);
        }
        for (i, (kind, info, gprs)) in exits.into_iter().enumerate() {
            let vcpu = &mut vcpus[(state[7] >> (i % 64) & 1) as usize];
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
