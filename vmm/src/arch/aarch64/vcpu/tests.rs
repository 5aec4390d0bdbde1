use super::*;
use crate::arch::aarch64::boot::load::Start;
use crate::arch::aarch64::clock::Clock;
use crate::arch::aarch64::device_tree::Serial;
use crate::arch::aarch64::gic::{Gic, Version};
use crate::arch::aarch64::id::{GuestId, HostId};
use crate::arch::aarch64::syndrome::{IL, WNR, class};
use crate::memory::testing::ram;
use crate::platform::KICK_VCPU;
use crate::platform::testing::World;
use crate::state::testing::page;
use crate::wide::TICKS;
use abi::vcpu::aarch64::{LIST_ACTIVE, LIST_PENDING};
use abi::vcpu::{EXIT_KINDS, FAULT_LINEAR, FAULT_READ};
use proptest::prelude::*;
use rt::env::register_key;

const BOOT: u64 = 1 << 40;
const RAM: u64 = 0x4000_0000;
const UART: u64 = 0x0900_0000;
const GICD: u64 = 0x0800_0000;
/// ICH_VMCR_EL2 of a guest that takes everything.
const OPEN: u64 = 0xf0 << 24 | 3;

fn machine(vcpus: u32, version: Version) -> (Vec<Vcpu<World>>, World) {
    let start = Start {
        entry: RAM,
        device_tree: RAM + 0x1000,
        device_tree_size: 0,
        initrd: (0, 0),
        kernel_size: 0,
    };
    let vm: &'static Vm = Box::leak(Box::new(Vm {
        ram: ram(&[(RAM, 0x1_0000)]),
        id: GuestId::new(HostId(&[(register_key(3, 0, 0, 4, 0), 0x2222)]), version),
        workarounds: 0,
        clock: Clock::new(BOOT),
        serial: Some(Serial { address: UART, line: 1 }),
        gic: spin::Mutex::new(Gic::new(version, vcpus, 4)),
        powers: Vm::powers(vcpus, &start),
        stopped: Default::default(),
        vcpus,
    }));
    let world = World::default();
    world.counter.set(BOOT);
    let mut all: Vec<_> = (0..vcpus).map(|id| Vcpu::new(vm, id, page(), world.clone())).collect();
    assert_eq!(exit(&mut all[0], ExitKind::Startup, [0; 3]), Groups::all());
    all[0].state.set_vmcr(OPEN);
    (all, world)
}

fn exit(vcpu: &mut Vcpu<World>, kind: ExitKind, info: [u64; 3]) -> Groups {
    vcpu.exit(&[kind as u64, info[0], info[1], info[2], 0, 0, 0, 0])
}

/// A load or store of a word; `x5` holds the value.
fn access(vcpu: &mut Vcpu<World>, address: u64, write: Option<u32>) -> Groups {
    let mut esr = class::DATA_ABORT_LOWER << 26 | IL | 1 << 24 | 2 << 22 | 5 << 16;
    if let Some(value) = write {
        vcpu.state.set_gpr(5, value.into());
        esr |= WNR;
    }
    exit(vcpu, ExitKind::StageTwoFault, [u64::from(esr) << 32 | FAULT_READ, address, 0])
}

fn system(vcpu: &mut Vcpu<World>, key: u16, read: bool) -> Groups {
    let key = u32::from(key);
    let esr = class::SYSTEM << 26
        | IL
        | (key >> 14) << 20
        | (key & 7) << 17
        | (key >> 11 & 7) << 14
        | (key >> 7 & 15) << 10
        | 5 << 5
        | (key >> 3 & 15) << 1
        | u32::from(read);
    exit(vcpu, ExitKind::SystemRegister, [esr.into(), 0, 0])
}

fn call(vcpu: &mut Vcpu<World>, arguments: [u64; 4]) -> (Groups, u64) {
    for (i, argument) in arguments.into_iter().enumerate() {
        vcpu.state.set_gpr(i, argument);
    }
    let groups = exit(vcpu, ExitKind::Hypercall, [0; 3]);
    (groups, vcpu.state.gpr(0))
}

fn halted(vcpu: &Vcpu<World>, groups: Groups) -> bool {
    groups.contains(Groups::CONTROLS) && vcpu.state.controls() & CONTROL_HALT != 0
}

#[test]
fn the_boot_vcpu_starts_as_linux_wants() {
    let (vcpus, _) = machine(1, Version::V3);
    let state = &vcpus[0].state;
    assert_eq!((state.pc(), state.gpr(0)), (RAM, RAM + 0x1000));
    assert_eq!((state.pstate(), state.sctlr_el1() & 0x1005), (0x3c5, 0));
    assert_eq!((state.vmpidr(), state.cntvoff()), (1 << 31, BOOT));
}

#[test]
fn other_vcpus_start_when_they_are_asked_to() {
    let (mut vcpus, world) = machine(2, Version::V3);
    let [first, second] = &mut vcpus[..] else { panic!() };
    let groups = exit(second, ExitKind::Startup, [0; 3]);
    assert!(halted(second, groups));
    // Somebody else's signal is none to start.
    let groups = exit(second, ExitKind::Kick, [KICK_VCPU, 0, 0]);
    assert!(halted(second, groups));
    assert_eq!(call(first, [0xc400_0003, 1, 0x10, 9]).1 as i64, -9);
    assert_eq!(call(first, [0xc400_0003, 1, RAM + 0x40, 9]).1, 0);
    assert_eq!(world.kicked.take(), [1]);
    let groups = exit(second, ExitKind::Kick, [KICK_VCPU, 0, 0]);
    assert_eq!(groups, Groups::all());
    assert_eq!(second.state.pc(), RAM + 0x40);
    assert_eq!((second.state.gpr(0), second.state.vmpidr()), (9, 1 << 31 | 1));

    // CPU_OFF ends it with its next exit; CPU_ON works again.
    call(second, [0x8400_0002, 0, 0, 0]);
    assert_eq!(world.kicked.take(), [1]);
    let groups = exit(second, ExitKind::Kick, [KICK_VCPU, 0, 0]);
    assert!(halted(second, groups));
    assert_eq!(call(first, [0xc400_0004, 1, 0, 0]).1, 1);
    assert_eq!(call(first, [0xc400_0003, 1, RAM, 0]).1, 0);
    let groups = exit(second, ExitKind::Kick, [KICK_VCPU, 0, 0]);
    assert_eq!(groups, Groups::all());
}

#[test]
fn a_guest_ends_its_machine() {
    for (function, reason) in
        [(0x8400_0008, StopReason::PowerOff), (0x8400_0009, StopReason::Reset)]
    {
        let (mut vcpus, world) = machine(2, Version::V3);
        let (groups, _) = call(&mut vcpus[0], [function, 0, 0, 0]);
        assert!(halted(&vcpus[0], groups));
        assert_eq!(world.stopped.get(), Some(reason));
        assert_eq!(world.kicked.take(), [1]);
        let groups = exit(&mut vcpus[1], ExitKind::Kick, [KICK_VCPU, 0, 0]);
        assert!(halted(&vcpus[1], groups));
    }
    // An instruction with another number is none of these calls.
    let (mut vcpus, world) = machine(1, Version::V3);
    vcpus[0].state.set_gpr(0, 0x8400_0008);
    exit(&mut vcpus[0], ExitKind::Hypercall, [1, 0, 0]);
    assert_eq!((vcpus[0].state.gpr(0), world.stopped.get()), (u64::MAX, None));
    // SMC: the instruction is skipped.
    let (mut vcpus, _) = machine(1, Version::V3);
    vcpus[0].state.set_gpr(0, 0x8400_0000);
    let groups = exit(&mut vcpus[0], ExitKind::FirmwareCall, [0; 3]);
    assert_eq!((groups, vcpus[0].state.pc()), (Groups::PC, RAM + 4));
    assert_eq!(vcpus[0].state.gpr(0), 0x1_0001);
}

/// The distributor on, the timer's PPI 27 and the serial port's SPI 1 enabled, in group 1.
fn open_gic(vcpu: &mut Vcpu<World>) {
    for (address, value) in [
        (GICD, 3),
        (0x080b_0080, u32::MAX),
        (0x080b_0100, 1 << 27),
        (GICD + 0x84, u32::MAX),
        (GICD + 0x104, 2),
    ] {
        let pc = vcpu.state.pc();
        assert!(access(vcpu, address, Some(value)).contains(Groups::PC));
        assert_eq!(vcpu.state.pc(), pc + 4);
    }
}

#[test]
fn the_timer_wakes_a_waiting_vcpu() {
    let (mut vcpus, _) = machine(1, Version::V3);
    let vcpu = &mut vcpus[0];
    open_gic(vcpu);
    let groups = exit(vcpu, ExitKind::Halt, [0; 3]);
    assert!(halted(vcpu, groups) && groups.contains(Groups::PC));
    // A kick for nothing: it sleeps on.
    let groups = exit(vcpu, ExitKind::Kick, [0; 3]);
    assert!(halted(vcpu, groups));
    let groups = exit(vcpu, ExitKind::VirtualTimer, [0; 3]);
    assert_eq!(groups, Groups::GIC);
    let list = vcpu.state.list(0);
    assert_eq!((list & 0x3ff, list >> 62), (27, 1));
    // Pending: WFI does not wait.
    let groups = exit(vcpu, ExitKind::Halt, [0; 3]);
    assert_eq!(groups, Groups::PC);
    // Unless it is masked.
    vcpu.state.set_vmcr(OPEN & !2);
    let groups = exit(vcpu, ExitKind::Halt, [0; 3]);
    assert!(halted(vcpu, groups));
    vcpu.state.set_vmcr(OPEN);
    assert_eq!(exit(vcpu, ExitKind::Kick, [0; 3]), Groups::empty());
    // Taken and ended without an exit; nothing is left then.
    vcpu.state.set_list(0, list & !LIST_PENDING | LIST_ACTIVE);
    assert_eq!(exit(vcpu, ExitKind::Kick, [0; 3]), Groups::empty());
    vcpu.state.set_list(0, list & !LIST_PENDING);
    assert_eq!(exit(vcpu, ExitKind::Kick, [0; 3]), Groups::empty());
    let groups = exit(vcpu, ExitKind::Halt, [0; 3]);
    assert!(halted(vcpu, groups));
}

#[test]
fn interrupts_go_to_the_vcpu_they_are_routed_to() {
    let (mut vcpus, world) = machine(2, Version::V3);
    call(&mut vcpus[0], [0xc400_0003, 1, RAM, 0]);
    exit(&mut vcpus[1], ExitKind::Startup, [0; 3]);
    open_gic(&mut vcpus[0]);
    access(&mut vcpus[0], GICD + 0x6100 + 8, Some(1));
    world.kicked.take();
    assert_eq!(exit(&mut vcpus[0], ExitKind::Kick, [2, 0, 0]), Groups::empty());
    assert_eq!(world.kicked.take(), [1]);
    assert_eq!(exit(&mut vcpus[1], ExitKind::Kick, [KICK_VCPU, 0, 0]), Groups::GIC);
    assert_eq!(vcpus[1].state.list(0) & 0x3ff, 33);
    // An SGI to all others, by system register.
    vcpus[0].state.set_gpr(5, 1 << 40 | 3 << 24);
    let groups = system(&mut vcpus[0], register_key(3, 0, 12, 11, 5), false);
    assert_eq!((groups, world.kicked.take()), (Groups::PC, vec![1]));
}

#[test]
fn a_vcpu_that_spins_gives_way() {
    let (mut vcpus, world) = machine(1, Version::V3);
    assert_eq!(exit(&mut vcpus[0], ExitKind::Pause, [0; 3]), Groups::PC);
    assert_eq!((vcpus[0].state.pc(), world.gave_way.get()), (RAM + 4, 1));
}

#[test]
fn devices_answer_and_nothing_else_does() {
    let (mut vcpus, world) = machine(1, Version::V2);
    let vcpu = &mut vcpus[0];
    assert_eq!(access(vcpu, UART + 0x18, None), Groups::PC);
    assert_eq!((vcpu.state.gpr(5), vcpu.state.pc()), (0x1006, RAM + 4));
    access(vcpu, UART, Some(0x41));
    assert_eq!(world.serial.take(), [(0, 0x41)]);
    // The first time without the state that an exception needs.
    let fault = u64::from(class::DATA_ABORT_LOWER << 26 | IL) << 32 | FAULT_LINEAR | FAULT_READ;
    for groups in [Groups::empty(), exception::NEEDED, exception::NEEDED] {
        let info = [fault, 0x0a00_0000, 0xffff_1234];
        assert_eq!(exit(vcpu, ExitKind::StageTwoFault, info), groups);
    }
    assert_eq!(world.widened.take(), [(ExitKind::StageTwoFault, true)]);
    assert_eq!(vcpu.state.far_el1(), 0xffff_1234);
    assert_eq!(vcpu.state.esr_el1(), 0x9600_0010);
    // Of a GICv2 there is neither a redistributor nor a system register.
    assert_eq!(access(vcpu, 0x080a_0000, None), exception::NEEDED);
    assert_eq!(system(vcpu, register_key(3, 0, 12, 11, 5), false), Groups::empty());
    // What a guest needs seldom costs it no longer after some time.
    world.widened.take();
    for _ in 0..TICKS {
        exit(vcpu, ExitKind::VirtualTimer, [0; 3]);
    }
    let kinds = [ExitKind::StageTwoFault, ExitKind::SystemRegister];
    assert_eq!(world.widened.take(), kinds.map(|kind| (kind, false)));
    assert_eq!(world.stopped.get(), None);
}

#[test]
fn registers_answer_by_policy() {
    let (mut vcpus, _) = machine(1, Version::V3);
    let vcpu = &mut vcpus[0];
    for (key, value) in [
        (register_key(3, 0, 0, 4, 0), 0x0100_0012),
        (register_key(2, 0, 1, 1, 4), 8),
        (register_key(3, 3, 9, 12, 0), 0),
        (register_key(3, 3, 14, 0, 1), BOOT),
    ] {
        assert_eq!(system(vcpu, key, true), Groups::PC);
        assert_eq!(vcpu.state.gpr(5), value);
    }
    assert_eq!(system(vcpu, register_key(3, 0, 10, 4, 7), true), Groups::empty());
    assert_eq!(system(vcpu, register_key(3, 0, 10, 4, 7), true), exception::NEEDED);
    assert_eq!(vcpu.state.pc(), 0x200);
}

proptest! {
    /// Whatever the kernel reports of a guest that does whatever it likes, the monitor lives.
    #[test]
    fn no_exit_is_a_danger(
        v3: bool,
        exits in prop::collection::vec(
            (0..2usize, 0..EXIT_KINDS as u8, any::<[u64; 3]>(), any::<[u64; 4]>(), 0..5u8), 0..40),
    ) {
        let (mut vcpus, _) = machine(2, if v3 { Version::V3 } else { Version::V2 });
        for (id, kind, mut info, gprs, place) in exits {
            let vcpu = &mut vcpus[id];
            for (i, value) in gprs.into_iter().enumerate() {
                vcpu.state.set_gpr(i, value);
                vcpu.state.set_list(i, value);
            }
            vcpu.state.set_gpr(0, gprs[0] & 0x4000_001f | 0x8400_0000);
            info[1] = match place {
                0 => GICD + info[1] % 0x1_0000,
                1 => 0x080a_0000 + info[1] % 0x4_0000,
                2 => UART + info[1] % 0x1000,
                _ => info[1],
            };
            let kind = ExitKind::from_code(kind).unwrap();
            exit(vcpu, kind, info);
        }
    }
}
