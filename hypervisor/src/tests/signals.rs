//! Notifications and interrupts: no wake-up is lost, however the CPUs interleave.

use super::world::{LINES, LOG, World, result, state};
use super::{Object, Running};
use crate::arch;
use crate::context::State;
use crate::notification::Notification;
use crate::space::Progress;
use crate::thread::Thread;
use crate::{cell::Ref, interrupt};
use abi::{Op, Status};
use core::sync::atomic::Ordering;

/// What can happen next to two threads on two CPUs and the notification that they wait for in turn.
#[derive(Clone, Copy, Debug)]
enum Event {
    /// The thread of this CPU waits, with a deadline.
    Wait(u32),
    /// Somebody on this CPU signals.
    Signal(u32),
    /// The CPU takes the interrupt that another one sent.
    Interrupt(u32),
    /// The CPU's timer fires.
    Timer(u32),
}

const EVENTS: [Event; 8] = [
    Event::Wait(0),
    Event::Wait(1),
    Event::Signal(0),
    Event::Signal(1),
    Event::Interrupt(0),
    Event::Interrupt(1),
    Event::Timer(0),
    Event::Timer(1),
];

struct Pair {
    w: World,
    threads: [Object<Thread>; 2],
    n: u64,
    notification: Ref<Notification>,
    sent: u64,
    received: u64,
}

impl Pair {
    fn new() -> Pair {
        let w = World::new(2);
        let threads = [w.client(0, 5), w.client(1, 5)];
        let n = w.notification();
        let notification = w.object::<Notification>(n as u32).object;
        for cpu in 0..2 {
            assert_eq!(w.run(cpu), Running::User(threads[cpu as usize].object));
        }
        Pair { w, threads, n, notification, sent: 0, received: 0 }
    }

    /// Whether the thread of `cpu` waits. What it received goes to the account.
    fn waits(&mut self, cpu: u32) -> bool {
        let thread = self.threads[cpu as usize];
        let waits = state(thread) == State::Waiting;
        if !waits && let Ok(results) = result(thread.object) {
            self.received |= results[1];
            // Only once.
            thread.object.with_frame(|frame| frame.gpr[0] = Status::Timeout as u64);
        }
        waits
    }

    /// Does `event`; false if it cannot happen now.
    fn step(&mut self, event: Event, now: u64) -> bool {
        match event {
            Event::Wait(cpu) => {
                if self.waits(cpu) || self.w.step(cpu) == Some(Running::Idle) {
                    return false;
                }
                let args = [self.n, now + 1];
                self.w.begin(self.threads[cpu as usize].object, Op::Wait, 0, &args);
                while self.w.step(cpu).is_none() {}
            }
            Event::Signal(cpu) => {
                let bit = 1 << self.sent.count_ones();
                self.sent |= bit;
                let badge = self.w.selector() as u64;
                self.w.root(Op::Delegate, &[self.n, 1, badge, 0xff, bit]);
                self.w.try_root_on(cpu, Op::Signal, &[badge]).unwrap();
            }
            Event::Interrupt(cpu) => {
                let this = self.w.on(cpu);
                if !this.arch.interrupted.swap(false, Ordering::SeqCst) {
                    return false;
                }
                this.note_inbox();
                while this.serve_inbox() == Progress::Again {}
                self.w.step(cpu);
            }
            Event::Timer(cpu) => {
                let this = self.w.on(cpu);
                if !self.waits(cpu) {
                    return false;
                }
                this.timer_fired();
                self.w.step(cpu);
            }
        }
        for cpu in 0..2 {
            self.waits(cpu);
        }
        true
    }

    /// Lets everything that is under way arrive; then nobody waits for what is there.
    fn check(&mut self, history: &[Event]) {
        for cpu in [0, 1, 0] {
            // Interrupts only: time does not end the waits.
            let this = self.w.on(cpu);
            if this.arch.interrupted.swap(false, Ordering::SeqCst) {
                this.note_inbox();
                while this.serve_inbox() == Progress::Again {}
                self.w.step(cpu);
            }
        }
        let waiting = self.waits(0) || self.waits(1);
        assert!(!(waiting && self.notification.is_set()), "lost wake-up: {history:?}");
        let left = self.notification.take();
        assert_eq!(self.received | left, self.sent, "{history:?}");
    }
}

#[test]
fn no_wakeup_is_lost() {
    const DEPTH: usize = 7;
    let mut histories = 0;
    let mut indices = [0usize; DEPTH];
    // Every history, each from a fresh start; where an event cannot happen, all that begin so are passed over.
    'next: loop {
        let mut pair = Pair::new();
        let mut history = Vec::new();
        let mut failed = None;
        for (place, &i) in indices.iter().enumerate() {
            history.push(EVENTS[i]);
            arch::set_now(2 * place as u64);
            if !pair.step(EVENTS[i], 2 * place as u64) {
                failed = Some(place);
                break;
            }
        }
        if failed.is_none() {
            histories += 1;
            pair.check(&history);
        }
        let mut place = failed.unwrap_or(DEPTH - 1);
        indices[place + 1..].fill(0);
        loop {
            indices[place] += 1;
            if indices[place] < EVENTS.len() {
                continue 'next;
            }
            indices[place] = 0;
            if place == 0 {
                break 'next;
            }
            place -= 1;
        }
    }
    assert!(histories > 20_000, "{histories}");
}

#[test]
fn waits_end() {
    let w = World::new(2);
    let (thread, other, n) = (w.client(0, 5), w.client(1, 5), w.notification());
    let user = Running::User(thread.object);
    w.run(0);
    w.run(1);
    // A poll, a deadline that has passed, one that comes.
    assert_eq!(w.does(thread, Op::Wait, &[n, 0]), user);
    assert_eq!(w.result(thread), Err(Status::Timeout));
    arch::set_now(10);
    assert_eq!(w.does(thread, Op::Wait, &[n, 1]), user);
    assert_eq!(w.result(thread), Err(Status::Timeout));
    assert_eq!(w.does(thread, Op::Wait, &[n, 20]), Running::Idle);
    // One waits at a time; a poll of somebody else takes what is there.
    w.does(other, Op::Wait, &[n, u64::MAX]);
    assert_eq!(w.result(other), Err(Status::Busy));
    arch::set_now(20);
    assert_eq!(w.run(0), user);
    assert_eq!(w.result(thread), Err(Status::Timeout));
    w.root(Op::Signal, &[n]);
    w.does(other, Op::Wait, &[n, 0]);
    assert_eq!(w.result(other).unwrap()[1], u64::MAX);
    // The notification ends, here or on another CPU.
    for cpu in [0, 1] {
        let n = w.notification();
        assert_eq!(w.does(thread, Op::Wait, &[n, u64::MAX]), Running::Idle);
        w.try_root_on(cpu, Op::Delete, &[n]).unwrap();
        assert_eq!((w.run(0), w.result(thread)), (user, Err(Status::Aborted)));
        assert_eq!(w.does(thread, Op::Wait, &[n, 0]), user);
        assert_eq!(w.result(thread), Err(Status::BadCapability));
    }
}

#[test]
fn badges_are_bits_that_were_given() {
    let w = World::new(1);
    let (n, some, fewer) = (w.notification(), w.selector() as u64, w.selector() as u64);
    let all = abi::Rights::all().bits() as u64;
    w.root(Op::Delegate, &[n, 1, some, all, 0b110]);
    assert_eq!(w.try_root(Op::Delegate, &[some, 1, fewer, all, 0b111]), Err(Status::Denied));
    w.root(Op::Delegate, &[some, 1, fewer, (abi::Rights::SIGNAL).bits() as u64, 0b100]);
    w.root(Op::Signal, &[fewer]);
    w.root(Op::Signal, &[fewer]);
    assert_eq!(w.try_root(Op::Wait, &[fewer, 0]), Err(Status::Denied));
    assert_eq!(w.root(Op::Wait, &[some, 0])[1], 0b100);
}

/// An interrupt line with a device: fires if it may.
struct Device<'a> {
    w: &'a World,
    line: u32,
    n: u64,
}

impl Device<'_> {
    fn fire(&self) {
        let line = &arch::LINES[self.line as usize];
        line.active.store(true, Ordering::SeqCst);
        self.deliver(0);
    }

    /// The controller delivers what is active and not masked; a level stays active until the device is served.
    fn deliver(&self, mode: u64) {
        let line = &arch::LINES[self.line as usize];
        if !line.masked.load(Ordering::SeqCst) && line.active.load(Ordering::SeqCst) {
            if mode != 2 {
                line.active.store(false, Ordering::SeqCst);
            }
            interrupt::deliver(&self.w.on(0), self.line);
        }
    }

    fn signalled(&self) -> bool {
        self.w.try_root(Op::Wait, &[self.n, 0]).is_ok()
    }

    fn acknowledge(&self) {
        self.w.root(Op::InterruptAck, &[(LINES + self.line) as u64]);
    }
}

#[test]
fn edges_are_never_lost_and_levels_do_not_storm() {
    let w = World::new(2);
    let n = w.notification();
    let bind = |mode| w.try_root(Op::InterruptBind, &[LINES as u64 + 1, n, mode]);
    let device = Device { w: &w, line: 1, n };
    assert_eq!(bind(3), Err(Status::BadArgument));
    bind(1).unwrap();
    assert_eq!(bind(1), Err(Status::Busy));
    device.fire();
    assert!(device.signalled());
    // Edges before the acknowledgement: one more signal, however many they were; then all over again.
    for _ in 0..3 {
        device.fire();
        device.fire();
        assert!(!device.signalled());
        device.acknowledge();
        assert!(device.signalled());
    }
    device.acknowledge();
    assert!(!device.signalled());
    device.fire();
    assert!(device.signalled());
    // The driver is replaced before it acknowledged.
    w.delete(n as u32);
    assert!(arch::LINES[1].masked.load(Ordering::SeqCst));
    let n = w.notification();
    w.root(Op::InterruptBind, &[LINES as u64 + 1, n, 2]);
    let device = Device { w: &w, line: 1, n };
    arch::LINES[1].active.store(true, Ordering::SeqCst);
    device.deliver(2);
    assert!(device.signalled());
    device.deliver(2);
    assert!(!device.signalled());
    device.acknowledge();
    device.deliver(2);
    assert!(device.signalled());
    // A line that cannot be routed can be tried again.
    let n = w.notification();
    for _ in 0..2 {
        let result = w.try_root(Op::InterruptBind, &[LINES as u64 + 3, n, 0]);
        assert_eq!(result, Err(Status::Unsupported));
    }
}

#[test]
fn the_log_tells_its_listener() {
    let w = World::new(1);
    let n = w.notification();
    let bytes = u64::from_le_bytes(*b"hello wo");
    w.root(Op::LogBind, &[LOG as u64, n]);
    w.root(Op::LogWrite, &[LOG as u64, 8, bytes]);
    assert_eq!(w.try_root(Op::LogWrite, &[LOG as u64, 57]), Err(Status::BadArgument));
    assert_eq!(w.root(Op::Wait, &[n, 0])[1], u64::MAX);
    assert_eq!(w.root(Op::LogRead, &[LOG as u64, 0])[1..3], [8, bytes]);
    // 16 KiB are kept, the newest.
    for i in 0..400u64 {
        w.root(Op::LogWrite, &[LOG as u64, 56, i]);
    }
    let first = w.root(Op::LogRead, &[LOG as u64, 0]);
    assert_eq!(first[1], 56);
    w.delete(n as u32);
    w.root(Op::LogWrite, &[LOG as u64, 1]);
}
