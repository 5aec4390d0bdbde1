//! Drivers that behave like Linux's lose, duplicate and reorder nothing.
use super::*;
use proptest::prelude::*;
use std::cell::RefCell;
use std::collections::VecDeque;
use std::sync::atomic::AtomicUsize;

mod ns16550;
mod pl011;

#[derive(Default)]
struct Counters {
    interrupts: AtomicUsize,
    wakes: AtomicUsize,
}

impl Wires for &Counters {
    fn interrupt(&self) {
        self.interrupts.fetch_add(1, SeqCst);
    }
    fn wake(&self) {
        self.wakes.fetch_add(1, SeqCst);
    }
}

/// What the main thread does between two register accesses.
#[derive(Clone, Copy, Debug)]
enum Step {
    Nothing,
    Take(usize),
    Send(usize),
    Admit,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => Just(Step::Nothing),
        1 => (1usize..40).prop_map(Step::Take),
        1 => (1usize..5000).prop_map(Step::Send),
        1 => Just(Step::Admit),
    ]
}

/// The UART with a main thread that works at every access.
struct Machine<'a> {
    uart: &'a dyn Uart,
    counters: &'a Counters,
    script: RefCell<Box<dyn Iterator<Item = Step> + 'a>>,
    to_send: RefCell<VecDeque<u8>>,
    taken: RefCell<Vec<u8>>,
}

impl<'a> Machine<'a> {
    fn new(
        uart: &'a dyn Uart,
        counters: &'a Counters,
        script: impl Iterator<Item = Step> + 'a,
    ) -> Self {
        Machine {
            uart,
            counters,
            script: RefCell::new(Box::new(script)),
            to_send: RefCell::default(),
            taken: RefCell::default(),
        }
    }

    fn main_thread(&self, step: Step) {
        match step {
            Step::Nothing => {}
            Step::Take(count) => {
                let bytes = (0..count).map_while(|_| self.uart.output().pop());
                self.taken.borrow_mut().extend(bytes);
                self.uart.output_taken();
            }
            Step::Send(count) => {
                let mut queue = self.to_send.borrow_mut();
                for _ in 0..count.min(self.uart.input_room()).min(queue.len()) {
                    assert!(self.uart.send(queue.pop_front().unwrap()));
                }
            }
            Step::Admit if self.uart.pauses() => self.uart.admit(),
            Step::Admit => {}
        }
    }

    fn background(&self) {
        let step = self.script.borrow_mut().next().unwrap_or(Step::Nothing);
        self.main_thread(step);
    }

    fn read(&self, register: u16) -> u32 {
        self.background();
        self.uart.read(register)
    }

    fn write(&self, register: u16, value: u32) {
        self.background();
        self.uart.write(register, value);
    }

    fn take_interrupt(&self) -> bool {
        self.counters.interrupts.swap(0, SeqCst) > 0
    }
}

/// Linux's driver for a kind of UART, as far as it touches the hardware.
trait Linux {
    fn startup(&mut self);
    /// The bytes of a terminal's output that have not been sent.
    fn to_write(&mut self) -> &mut VecDeque<u8>;
    fn start_transmit(&mut self);
    fn interrupt(&mut self);
    /// printk: interrupts off, polling.
    fn console_write(&mut self, bytes: &[u8]);
    /// tty throttle.
    fn set_rts(&mut self, on: bool);
    /// What was read.
    fn read(&self) -> &[u8];
}

fn byte(i: usize) -> u8 {
    (i * 7 + i / 251) as u8
}

fn stream(count: usize) -> impl Iterator<Item = u8> {
    (0..count).map(byte)
}

#[derive(Clone, Debug)]
enum Action {
    Write(usize),
    Console(usize),
    Rts(bool),
    Wait(Vec<Step>),
}

fn action() -> impl Strategy<Value = Action> {
    prop_oneof![
        (1usize..20_000).prop_map(Action::Write),
        (1usize..200).prop_map(Action::Console),
        any::<bool>().prop_map(Action::Rts),
        prop::collection::vec(step(), 1..40).prop_map(Action::Wait),
    ]
}

/// Whatever happens, both streams arrive.
fn check_streams(machine: &Machine<'_>, linux: &mut dyn Linux, actions: Vec<Action>, input: usize) {
    linux.startup();
    machine.to_send.borrow_mut().extend(stream(input));
    let mut written = Vec::new();
    for action in actions {
        match action {
            Action::Write(count) => {
                linux.to_write().extend(stream(count));
                written.extend(stream(count));
                linux.start_transmit();
            }
            // printk may come between the bytes of a terminal's output, but not into this test's streams.
            Action::Console(count) if linux.to_write().is_empty() => {
                let bytes: Vec<u8> = stream(count).collect();
                written.extend(&bytes);
                linux.console_write(&bytes);
            }
            Action::Console(_) => {}
            Action::Rts(on) => linux.set_rts(on),
            Action::Wait(steps) => steps.into_iter().for_each(|step| machine.main_thread(step)),
        }
        if machine.take_interrupt() {
            linux.interrupt();
        }
    }
    // From here on the driver does something only when it is interrupted.
    linux.set_rts(true);
    loop {
        let before = (machine.taken.borrow().len(), linux.read().len());
        machine.main_thread(Step::Take(10));
        machine.main_thread(Step::Send(10));
        machine.main_thread(Step::Admit);
        if machine.take_interrupt() {
            linux.interrupt();
        } else if before == (machine.taken.borrow().len(), linux.read().len())
            && machine.to_send.borrow().is_empty()
        {
            break;
        }
    }
    let (taken, all) = (machine.taken.borrow(), written.len());
    assert!(*taken == written, "output: {} of {all}", taken.len());
    let read = linux.read();
    assert!(read.iter().copied().eq(stream(input)), "input: {} of {input}", read.len());
}

type Check = fn(&Machine<'_>, &mut dyn Linux);

/// A line that always has another byte does not keep the guest in its interrupt handler.
fn check_endless_input(machine: &Machine<'_>, linux: &mut dyn Linux) {
    const COUNT: usize = 150_000;
    machine.to_send.borrow_mut().extend(stream(COUNT));
    linux.startup();
    linux.set_rts(true);
    while linux.read().len() < COUNT {
        let before = linux.read().len();
        assert!(machine.take_interrupt(), "no interrupt after {before} bytes");
        linux.interrupt();
        assert!((1..=line::BATCH).contains(&(linux.read().len() - before)));
        assert!(!machine.take_interrupt(), "the handler returns, and is called at once");
        machine.main_thread(Step::Admit);
    }
    assert!(linux.read().iter().copied().eq(stream(COUNT)));
}

/// Nor does a line that takes every byte at once, though there is always another.
fn check_endless_output(machine: &Machine<'_>, linux: &mut dyn Linux) {
    const COUNT: usize = 150_000;
    linux.startup();
    linux.to_write().extend(stream(COUNT));
    linux.start_transmit();
    while !linux.to_write().is_empty() {
        machine.main_thread(Step::Take(usize::MAX));
        machine.main_thread(Step::Admit);
        let before = linux.to_write().len();
        assert!(machine.take_interrupt(), "no interrupt: {before} bytes left");
        linux.interrupt();
        let sent = before - linux.to_write().len();
        assert!((1..=line::TRANSMIT_BATCH + 32).contains(&sent), "{sent} bytes");
    }
    machine.main_thread(Step::Take(usize::MAX));
    assert!(machine.taken.borrow().iter().copied().eq(stream(COUNT)));
}
