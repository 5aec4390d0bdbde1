//! A driver that behaves like Linux's 8250 loses, duplicates and reorders nothing.
use super::*;
use proptest::prelude::*;
use std::cell::RefCell;
use std::collections::VecDeque;
use std::sync::atomic::AtomicUsize;

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
    uart: EmulatedUart<&'a Counters>,
    counters: &'a Counters,
    script: RefCell<Box<dyn Iterator<Item = Step> + 'a>>,
    to_send: RefCell<VecDeque<u8>>,
    taken: RefCell<Vec<u8>>,
}

impl Machine<'_> {
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

    fn read(&self, register: u8) -> u8 {
        self.background();
        self.uart.read(register)
    }

    fn write(&self, register: u8, value: u8) {
        self.background();
        self.uart.write(register, value);
    }

    fn take_interrupt(&self) -> bool {
        self.counters.interrupts.swap(0, SeqCst) > 0
    }
}

/// Linux's drivers/tty/serial/8250, as far as it touches the hardware.
struct Linux<'m, 'a> {
    machine: &'m Machine<'a>,
    ier: u8,
    to_write: VecDeque<u8>,
    read: Vec<u8>,
    crtscts: bool,
    stopped: bool,
}

impl<'m, 'a> Linux<'m, 'a> {
    fn new(machine: &'m Machine<'a>, crtscts: bool) -> Self {
        Linux {
            machine,
            ier: 0,
            to_write: VecDeque::new(),
            read: Vec::new(),
            crtscts,
            stopped: false,
        }
    }

    /// serial8250_do_startup.
    fn startup(&mut self) {
        let m = self.machine;
        m.write(IIR_FCR, 1);
        m.write(IIR_FCR, 7);
        assert_eq!(m.read(IIR_FCR) & IIR_FIFOS, IIR_FIFOS);
        m.write(LCR, 3);
        // The test for UARTs that forget the THRE interrupt.
        m.write(IER, 2);
        let first = m.read(IIR_FCR);
        m.write(IER, 0);
        m.write(IER, 2);
        let second = m.read(IIR_FCR);
        m.write(IER, 0);
        assert_eq!((first & 1, second & 1), (0, 0));
        m.write(MCR, 0x0b);
        self.ier = if self.crtscts { 0x0d } else { 0x05 };
        m.write(IER, self.ier);
    }

    /// serial8250_start_tx.
    fn start_transmit(&mut self) {
        if self.ier & 2 == 0 && !self.stopped {
            self.ier |= 2;
            self.machine.write(IER, self.ier);
        }
    }

    fn stop_transmit(&mut self) {
        self.ier &= !2;
        self.machine.write(IER, self.ier);
    }

    /// serial8250_interrupt: until no cause is left.
    fn interrupt(&mut self) {
        for _ in 0..512 {
            if self.machine.read(IIR_FCR) & 1 != 0 {
                return;
            }
            let mut status = self.machine.read(LSR);
            let mut budget = 256;
            while status & 1 != 0 && budget > 0 {
                self.read.push(self.machine.read(DATA));
                status = self.machine.read(LSR);
                budget -= 1;
            }
            let modem = self.machine.read(MSR);
            if self.crtscts && modem & 1 != 0 {
                self.stopped = modem & 0x10 == 0;
                if self.stopped {
                    self.stop_transmit();
                } else {
                    self.start_transmit();
                }
            }
            if status & 0x20 != 0 && self.ier & 2 != 0 {
                self.transmit();
            }
        }
    }

    /// serial8250_tx_chars.
    fn transmit(&mut self) {
        for _ in 0..16 {
            match self.to_write.pop_front() {
                Some(byte) => self.machine.write(DATA, byte),
                None => return self.stop_transmit(),
            }
        }
    }

    /// serial8250_console_write: interrupts off, polling.
    fn console_write(&mut self, bytes: &[u8]) {
        self.machine.write(IER, 0);
        for &byte in bytes {
            let mut patience = 10_000;
            while self.machine.read(LSR) & 0x60 != 0x60 {
                patience -= 1;
                if patience == 0 {
                    self.machine.main_thread(Step::Take(usize::MAX));
                }
            }
            self.machine.write(DATA, byte);
        }
        self.machine.write(IER, self.ier);
    }

    /// tty throttle: RTS.
    fn set_rts(&mut self, on: bool) {
        self.machine.write(MCR, if on { 0x0b } else { 0x09 });
    }
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

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]
    #[test]
    fn streams_arrive_whole(
        script in prop::collection::vec(step(), 1..300),
        actions in prop::collection::vec(action(), 1..12),
        input in 0usize..20_000,
        crtscts: bool,
    ) {
        let counters = Counters::default();
        let stream = |n: usize| (0..n).map(|i| (i * 7 + i / 251) as u8);
        let machine = Machine {
            uart: EmulatedUart::new(&counters),
            counters: &counters,
            script: RefCell::new(Box::new(script.into_iter().cycle())),
            to_send: RefCell::new(VecDeque::new()),
            taken: RefCell::default(),
        };
        let mut linux = Linux::new(&machine, crtscts);
        linux.startup();
        machine.to_send.borrow_mut().extend(stream(input));
        let mut written = Vec::new();
        for action in actions {
            match action {
                Action::Write(count) => {
                    linux.to_write.extend(stream(count));
                    written.extend(stream(count));
                    linux.start_transmit();
                }
                // printk may come between the bytes of a terminal's output, but not into this test's streams.
                Action::Console(count) if linux.to_write.is_empty() => {
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
            let before = (machine.taken.borrow().len(), linux.read.len());
            machine.main_thread(Step::Take(10));
            machine.main_thread(Step::Send(10));
            machine.main_thread(Step::Admit);
            if machine.take_interrupt() {
                linux.interrupt();
            } else if before == (machine.taken.borrow().len(), linux.read.len())
                && machine.to_send.borrow().is_empty()
            {
                break;
            }
        }
        prop_assert!(*machine.taken.borrow() == written, "output: {} of {}", machine.taken.borrow().len(), written.len());
        prop_assert!(linux.read == stream(input).collect::<Vec<u8>>(), "input: {} of {}", linux.read.len(), input);
    }
}

/// A line that always has another byte does not keep the guest in its interrupt handler.
#[test]
fn an_endless_line_leaves_the_guest_time() {
    const COUNT: usize = 300_000;
    let counters = Counters::default();
    let machine = Machine {
        uart: EmulatedUart::new(&counters),
        counters: &counters,
        script: RefCell::new(Box::new(std::iter::repeat(Step::Send(usize::MAX)))),
        to_send: RefCell::new((0..COUNT).map(|i| (i * 7 + i / 251) as u8).collect()),
        taken: RefCell::default(),
    };
    let mut linux = Linux::new(&machine, false);
    linux.startup();
    while linux.read.len() < COUNT {
        let before = linux.read.len();
        assert!(
            machine.take_interrupt(),
            "no interrupt after {before} bytes"
        );
        linux.interrupt();
        assert!((1..=BATCH).contains(&(linux.read.len() - before)));
        assert!(
            !machine.take_interrupt(),
            "the handler returns, and is called at once"
        );
        machine.main_thread(Step::Admit);
    }
    let expected = (0..COUNT).map(|i| (i * 7 + i / 251) as u8);
    assert!(linux.read.iter().copied().eq(expected));
}

/// Both directions with two real threads, each woken by the other only.
#[test]
fn two_threads_wake_each_other() {
    const COUNT: usize = 300_000;
    let counters = Counters::default();
    let uart = EmulatedUart::new(&counters);
    let done = AtomicBool::new(false);
    let byte = |i: usize| (i * 7 + i / 251) as u8;
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(60);
    let wait = |flag: &AtomicUsize, what: &str| {
        while flag.swap(0, SeqCst) == 0 {
            assert!(
                std::time::Instant::now() < deadline,
                "{what} was never woken"
            );
            std::thread::yield_now();
        }
    };
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let (mut sent, mut received) = (0, 0);
            while received < COUNT || !done.load(SeqCst) {
                while sent < COUNT && uart.send(byte(sent)) {
                    sent += 1;
                }
                while let Some(got) = uart.output().pop() {
                    assert_eq!(got, byte(received), "output byte {received}");
                    received += 1;
                }
                uart.output_taken();
                if uart.pauses() {
                    uart.admit();
                }
                let room = uart.wake_on_room() && sent < COUNT;
                if !uart.wake_on_output() && !room {
                    wait(&counters.wakes, "the main thread");
                }
            }
        });
        uart.write(IIR_FCR, 0xc1);
        uart.write(MCR, 0x0b);
        uart.write(IER, 3);
        let (mut sent, mut received) = (0, 0);
        while received < COUNT || sent < COUNT {
            if uart.read(IIR_FCR) & 1 != 0 {
                wait(&counters.interrupts, "the guest");
                continue;
            }
            while uart.read(LSR) & 1 != 0 {
                assert_eq!(uart.read(DATA), byte(received), "input byte {received}");
                received += 1;
            }
            if uart.read(LSR) & 0x20 != 0 {
                for _ in 0..16.min(COUNT - sent) {
                    uart.write(DATA, byte(sent));
                    sent += 1;
                }
            }
            if sent == COUNT {
                uart.write(IER, 1);
            }
        }
        done.store(true, SeqCst);
        (&counters).wake();
    });
}

#[test]
fn looks_like_a_16550a() {
    let counters = Counters::default();
    let uart = EmulatedUart::new(&counters);
    assert_eq!(
        (uart.read(IIR_FCR), uart.read(LSR), uart.read(MSR)),
        (0x01, 0x60, 0xb0)
    );
    uart.write(LCR, 0x83);
    uart.write(0, 1);
    uart.write(1, 2);
    assert_eq!((uart.read(0), uart.read(1)), (1, 2));
    uart.write(LCR, 0x03);
    // Reserved bits of IER and MCR stay clear.
    uart.write(IER, 0xf0);
    uart.write(MCR, 0xe0);
    uart.write(SCRATCH, 0x5a);
    assert_eq!(
        (uart.read(IER), uart.read(MCR), uart.read(SCRATCH)),
        (0, 0, 0x5a)
    );
    // Loopback, as Linux's autoconfig tests it.
    uart.write(MCR, 0x1a);
    assert_eq!(uart.read(MSR) & 0xf0, 0x90);
    uart.write(IIR_FCR, 1);
    for i in 0..17 {
        uart.write(DATA, i);
    }
    assert_eq!(uart.read(LSR) & 3, 3, "data and overrun");
    assert_eq!((0..16).map(|_| uart.read(DATA)).sum::<u8>(), 120);
    assert_eq!(uart.read(LSR) & 3, 0);
    uart.write(MCR, 0x0b);
    // Priorities: data before transmit; the trigger level is 8.
    uart.write(IIR_FCR, 0x81);
    uart.write(IER, 3);
    assert!(uart.send(1));
    assert_eq!(uart.read(IIR_FCR), 0xcc);
    (0..7).for_each(|_| assert!(uart.send(1)));
    assert_eq!(uart.read(IIR_FCR), 0xc4);
    (0..8).for_each(|_| assert_eq!(uart.read(DATA), 1));
    assert_eq!((uart.read(IIR_FCR), uart.read(IIR_FCR)), (0xc2, 0xc1));
    assert!(counters.interrupts.load(SeqCst) > 0);
}

#[test]
fn a_full_ring_holds_the_guest_back() {
    let counters = Counters::default();
    let uart = EmulatedUart::new(&counters);
    uart.write(IIR_FCR, 1);
    uart.write(MCR, 0x0b);
    uart.write(IER, 8);
    let mut count = 0;
    while uart.read(LSR) & 0x20 != 0 {
        uart.write(DATA, 0);
        count += 1;
    }
    assert_eq!(count, OUTPUT - FIFO + 1);
    assert_eq!(uart.read(IIR_FCR), 0xc0);
    assert_eq!((uart.read(MSR), uart.read(MSR)), (0xa1, 0xa0));
    while uart.output().pop().is_some() {}
    counters.interrupts.store(0, SeqCst);
    uart.output_taken();
    assert_eq!(counters.interrupts.load(SeqCst), 1);
    assert_eq!(uart.read(MSR), 0xb1);
    assert_eq!(uart.read(LSR), 0x60);
}
