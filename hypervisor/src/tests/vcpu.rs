//! vCPUs: exits arrive, kicks and deadlines are never lost.

use super::world::{World, state};
use super::{Object, Running};
use crate::arch::{self, vcpu as host};
use crate::context::State;
use crate::thread::Thread;
use crate::vcpu::{Exit, Vcpu};
use abi::vcpu::x86_64::{CONTROL_HALT, Groups};
use abi::vcpu::{EXIT_KINDS, ExitKind};
use abi::{Op, Status};
use core::sync::atomic::Ordering;

const EVENTS: u64 = Groups::EVENTS.bits();
const DEADLINE: u64 = Groups::DEADLINE.bits();

/// A vCPU on the last CPU, its monitor's thread there, and the notification that kicks it.
struct Vm {
    w: World,
    cpu: u32,
    vcpu: Object<Vcpu>,
    monitor: Object<Thread>,
    portals: u64,
    kick: u64,
}

impl Vm {
    fn new(cpus: u32) -> Vm {
        let w = World::new(cpus);
        let cpu = cpus - 1;
        let monitor = w.thread(cpu);
        let guest = w.selector() as u64;
        w.root(Op::CreateSpace, &[1, guest, 1]);
        let portals = w.selector() as u64;
        for kind in 0..EXIT_KINDS as u64 {
            let at = if kind == 0 { portals } else { w.selector() as u64 };
            assert_eq!(at, portals + kind);
            w.root(Op::CreatePortal, &[1, at, monitor.at as u64, 1000 + kind, kind]);
        }
        let at = w.selector();
        let args = [1, at as u64, 1, guest, cpu as u64, 2, w.page(), portals];
        w.root(Op::CreateVcpu, &args);
        let vcpu = w.object(at);
        let kick = w.notification();
        w.root(Op::BindKick, &[at as u64, kick]);
        let vm = Vm { w, cpu, vcpu, monitor, portals, kick };
        vm.start();
        vm
    }

    /// Starts the vCPU and answers its first exit.
    fn start(&self) {
        self.w.bind(self.w.sched(self.cpu, 5, 0, 0), self.vcpu);
        assert_eq!(self.run(), self.tells());
        assert_eq!(self.exit(), (ExitKind::Startup, [0; 3]));
        assert_eq!(self.reply(0), Running::Guest(self.vcpu.object));
    }

    fn run(&self) -> Running {
        self.w.run(self.cpu)
    }

    fn tells(&self) -> Running {
        Running::User(self.monitor.object)
    }

    /// The guest does something that exits.
    fn exits(&self, kind: ExitKind, info: [u64; 3]) -> Running {
        let exit = Exit { kind, instruction_length: 3, info };
        self.vcpu.object.arch.with_mut(|arch| arch.next_exit = Some(exit));
        self.run()
    }

    /// The exit that the monitor was told.
    fn exit(&self) -> (ExitKind, [u64; 3]) {
        let args = self.w.result(self.monitor).unwrap();
        let kind = abi::vcpu::exit_kind(args[1]).unwrap();
        assert_eq!(args[0], 1000 + kind as u64);
        assert_eq!(self.vcpu.object.arch.with_mut(|arch| arch.saved), kind as u64);
        (kind, [args[2], args[3], args[4]])
    }

    fn reply(&self, groups: u64) -> Running {
        self.w.does(self.monitor, Op::ReplyWait, &[0, groups])
    }

    fn set(&self, word: usize, value: u64) {
        self.vcpu.object.state_page.write(word, value);
    }

    /// The monitor answers that the vCPU halts.
    fn halt(&self) -> Running {
        self.set(host::CONTROLS, CONTROL_HALT);
        let running = self.reply(EVENTS);
        self.set(host::CONTROLS, 0);
        running
    }

    /// Signals from CPU 0, which is another one if there are two.
    fn signal(&self) {
        self.w.root(Op::Signal, &[self.kick]);
    }
}

#[test]
fn exits_reach_the_portal_of_their_kind() {
    let vm = Vm::new(1);
    assert_eq!(vm.exits(ExitKind::Io, [1, 2, 3]), vm.tells());
    assert_eq!(vm.exit(), (ExitKind::Io, [1, 2, 3]));
    assert_eq!(vm.reply(0), Running::Guest(vm.vcpu.object));
    assert_eq!(vm.exits(ExitKind::Other, [4, 5, 6]), vm.tells());
    assert_eq!(vm.exit(), (ExitKind::Other, [4, 5, 6]));
}

#[test]
fn an_exit_whose_handler_is_busy_is_told_later() {
    let vm = Vm::new(1);
    let client = vm.w.client(0, 9);
    vm.run();
    let portal = vm.w.portal(vm.monitor, 1);
    assert_eq!(vm.w.does(client, Op::Call, &[portal]), vm.tells());
    let never = vm.w.notification();
    assert_eq!(vm.w.does(vm.monitor, Op::Wait, &[never, u64::MAX]), Running::Guest(vm.vcpu.object));
    assert_eq!(vm.exits(ExitKind::Cpuid, [7, 8, 9]), Running::Idle);
    assert_eq!(state(vm.vcpu), State::Helping);
    // A kick meanwhile does not disturb the exit, and is told after it.
    vm.signal();
    vm.w.root(Op::Signal, &[never]);
    assert_eq!(vm.run(), vm.tells());
    // The client goes on before the exit is told: its priority is higher.
    assert_eq!(vm.reply(0), Running::User(client.object));
    assert_eq!(vm.w.does(client, Op::Wait, &[never, u64::MAX]), vm.tells());
    assert_eq!(vm.exit(), (ExitKind::Cpuid, [7, 8, 9]));
    assert_eq!(vm.reply(0), vm.tells());
    assert_eq!(vm.exit(), (ExitKind::Kick, [u64::MAX, 0, 0]));
    assert_eq!(vm.reply(0), Running::Guest(vm.vcpu.object));
}

#[test]
fn a_missing_portal_stops_the_vcpu_alone() {
    let vm = Vm::new(1);
    let other = vm.w.client(0, 4);
    assert_eq!(vm.w.cpu(0).arch.residents.load(Ordering::SeqCst), 1);
    vm.w.delete(vm.portals as u32 + ExitKind::Cpuid as u32);
    assert_eq!(vm.exits(ExitKind::Cpuid, [0; 3]), Running::User(other.object));
    assert_eq!(state(vm.vcpu), State::Stopped);
    vm.signal();
    assert_eq!(vm.run(), Running::User(other.object));
    vm.w.delete(vm.vcpu.at);
    assert_eq!(vm.w.cpu(0).arch.residents.load(Ordering::SeqCst), 0);
}

#[test]
fn no_kick_is_lost() {
    for cpus in [1, 2] {
        // While the guest runs.
        let vm = Vm::new(cpus);
        vm.signal();
        assert_eq!(vm.run(), vm.tells());
        assert_eq!(vm.exit(), (ExitKind::Kick, [u64::MAX, 0, 0]));
        // Once only.
        assert_eq!(vm.reply(0), Running::Guest(vm.vcpu.object));
        // While the monitor handles an exit that it answers with a halt; kicks are collected.
        assert_eq!(vm.exits(ExitKind::Halt, [0; 3]), vm.tells());
        let second = vm.w.selector() as u64;
        vm.w.root(Op::Delegate, &[vm.kick, 1, second, 0xff, 4, 0, 0]);
        vm.w.root(Op::Signal, &[second]);
        vm.w.run(vm.cpu);
        assert_eq!(vm.halt(), vm.tells());
        assert_eq!(vm.exit(), (ExitKind::Kick, [4, 0, 0]));
        // While it is halted.
        assert_eq!(vm.halt(), Running::Idle);
        assert_eq!(state(vm.vcpu), State::Halted);
        vm.signal();
        assert_eq!(vm.run(), vm.tells());
        assert_eq!(vm.exit(), (ExitKind::Kick, [u64::MAX, 0, 0]));
        // From another CPU, whose interrupt comes when the vCPU has halted already, or has been left.
        vm.signal();
        vm.set(host::CONTROLS, CONTROL_HALT);
        vm.w.begin(vm.monitor.object, Op::ReplyWait, 0, &[0, EVENTS]);
        assert_eq!(vm.run(), vm.tells());
        assert_eq!(vm.exit(), (ExitKind::Kick, [u64::MAX, 0, 0]));
        vm.w.begin(vm.monitor.object, Op::ReplyWait, 0, &[0, EVENTS]);
        vm.signal();
        assert_eq!(vm.run(), vm.tells());
        assert_eq!(vm.exit(), (ExitKind::Kick, [u64::MAX, 0, 0]));
    }
}

#[test]
fn deadlines_kick() {
    let vm = Vm::new(1);
    let at = |now| {
        arch::set_now(now);
        vm.run()
    };
    // In guest mode; once.
    assert_eq!(vm.exits(ExitKind::Cpuid, [0; 3]), vm.tells());
    vm.set(host::DEADLINE, 100);
    assert_eq!(vm.reply(DEADLINE), Running::Guest(vm.vcpu.object));
    assert_eq!(at(99), Running::Guest(vm.vcpu.object));
    assert_eq!(at(100), vm.tells());
    assert_eq!(vm.exit(), (ExitKind::Kick, [0, 1, 0]));
    assert_eq!(vm.reply(0), Running::Guest(vm.vcpu.object));
    // It passes while the monitor handles an exit and answers with a halt; with a signal in the same exit.
    assert_eq!(vm.exits(ExitKind::Halt, [0; 3]), vm.tells());
    vm.set(host::DEADLINE, 200);
    vm.reply(DEADLINE);
    assert_eq!(vm.exits(ExitKind::Halt, [0; 3]), vm.tells());
    assert_eq!(at(250), vm.tells());
    vm.signal();
    assert_eq!(vm.halt(), vm.tells());
    assert_eq!(vm.exit(), (ExitKind::Kick, [u64::MAX, 1, 0]));
    // Halted; and taken back.
    vm.set(host::CONTROLS, CONTROL_HALT);
    vm.set(host::DEADLINE, 300);
    assert_eq!(vm.reply(EVENTS | DEADLINE), Running::Idle);
    assert_eq!(at(300), vm.tells());
    vm.set(host::DEADLINE, u64::MAX);
    assert_eq!(vm.reply(EVENTS | DEADLINE), Running::Idle);
    assert_eq!(at(u64::MAX - 1), Running::Idle);
}

#[test]
fn the_kick_can_be_bound_once_and_before_the_start_only() {
    let vm = Vm::new(1);
    let n = vm.w.notification();
    assert_eq!(vm.w.try_root(Op::BindKick, &[vm.vcpu.at as u64, n]), Err(Status::Busy));
    assert_eq!(vm.w.try_root(Op::Wait, &[vm.kick, u64::MAX]), Err(Status::Busy));
}

#[test]
fn a_start_that_fails_is_no_start() {
    let w = World::new(1);
    let (guest, at, n) = (w.selector() as u64, w.selector() as u64, w.notification());
    w.root(Op::CreateSpace, &[1, guest, 1]);
    w.root(Op::CreateVcpu, &[1, at, 1, guest, 0, 2, w.page(), 300]);
    let sched = w.sched(0, 5, 0, 0);
    w.bind(sched, w.thread(0));
    assert_eq!(w.try_root(Op::BindSched, &[sched.at as u64, at]), Err(Status::Busy));
    w.root(Op::BindKick, &[at, n]);
}

#[test]
fn a_signal_of_no_bits_wakes_nobody() {
    let vm = Vm::new(1);
    let nothing = vm.w.selector() as u64;
    vm.w.root(Op::Delegate, &[vm.kick, 1, nothing, 0xff, 0]);
    assert_eq!(vm.exits(ExitKind::Halt, [0; 3]), vm.tells());
    assert_eq!(vm.halt(), Running::Idle);
    vm.w.root(Op::Signal, &[nothing]);
    assert_eq!((vm.run(), state(vm.vcpu)), (Running::Idle, State::Halted));
}

#[test]
fn the_kick_or_the_vcpu_ends() {
    let vm = Vm::new(2);
    vm.exits(ExitKind::Halt, [0; 3]);
    assert_eq!(vm.halt(), Running::Idle);
    vm.w.delete(vm.kick as u32);
    assert_eq!((vm.run(), state(vm.vcpu)), (Running::Idle, State::Halted));
    let vm = {
        drop(vm);
        Vm::new(2)
    };
    vm.signal();
    vm.w.delete(vm.vcpu.at);
    assert_eq!(vm.run(), Running::Idle);
    // Nobody is kicked any more: somebody else can wait, and there is still what was signalled.
    let waiter = vm.w.client(0, 5);
    vm.w.run(0);
    vm.w.does(waiter, Op::Wait, &[vm.kick, u64::MAX]);
    assert_eq!(vm.w.result(waiter).unwrap()[1], u64::MAX);
    assert_eq!(vm.w.does(waiter, Op::Wait, &[vm.kick, u64::MAX]), Running::Idle);
    vm.signal();
    assert_eq!(vm.w.run(0), Running::User(waiter.object));
}
