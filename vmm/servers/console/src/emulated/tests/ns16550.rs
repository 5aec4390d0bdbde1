//! A 16550, and Linux's driver for it.
use super::*;
use crate::registers::ns16550::*;

type Uart16550<'a> = Emulated<Ns16550, &'a Counters>;

/// Linux's drivers/tty/serial/8250, as far as it touches the hardware.
struct Linux8250<'m, 'a> {
    machine: &'m Machine<'a>,
    ier: u8,
    to_write: VecDeque<u8>,
    read: Vec<u8>,
    crtscts: bool,
    stopped: bool,
}

impl<'m, 'a> Linux8250<'m, 'a> {
    fn new(machine: &'m Machine<'a>, crtscts: bool) -> Self {
        Linux8250 {
            machine,
            ier: 0,
            to_write: VecDeque::new(),
            read: Vec::new(),
            crtscts,
            stopped: false,
        }
    }

    fn get(&self, register: u16) -> u8 {
        self.machine.read(register) as u8
    }

    fn put(&self, register: u16, value: u8) {
        self.machine.write(register, value.into());
    }

    fn stop_transmit(&mut self) {
        self.ier &= !2;
        self.put(IER, self.ier);
    }

    /// serial8250_tx_chars.
    fn transmit(&mut self) {
        for _ in 0..16 {
            match self.to_write.pop_front() {
                Some(byte) => self.put(DATA, byte),
                None => return self.stop_transmit(),
            }
        }
    }
}

impl Linux for Linux8250<'_, '_> {
    fn to_write(&mut self) -> &mut VecDeque<u8> {
        &mut self.to_write
    }

    fn read(&self) -> &[u8] {
        &self.read
    }

    /// serial8250_do_startup.
    fn startup(&mut self) {
        self.put(IIR_FCR, 1);
        self.put(IIR_FCR, 7);
        assert_eq!(self.get(IIR_FCR) & IIR_FIFOS, IIR_FIFOS);
        self.put(LCR, 3);
        // The test for UARTs that forget the THRE interrupt.
        self.put(IER, 2);
        let first = self.get(IIR_FCR);
        self.put(IER, 0);
        self.put(IER, 2);
        let second = self.get(IIR_FCR);
        self.put(IER, 0);
        assert_eq!((first & 1, second & 1), (0, 0));
        self.put(MCR, 0x0b);
        self.ier = if self.crtscts { 0x0d } else { 0x05 };
        self.put(IER, self.ier);
    }

    /// serial8250_start_tx.
    fn start_transmit(&mut self) {
        if self.ier & 2 == 0 && !self.stopped {
            self.ier |= 2;
            self.put(IER, self.ier);
        }
    }

    /// serial8250_interrupt: until no cause is left.
    fn interrupt(&mut self) {
        for _ in 0..512 {
            if self.get(IIR_FCR) & 1 != 0 {
                return;
            }
            let mut status = self.get(LSR);
            let mut budget = 256;
            while status & 1 != 0 && budget > 0 {
                self.read.push(self.get(DATA));
                status = self.get(LSR);
                budget -= 1;
            }
            let modem = self.get(MSR);
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

    /// serial8250_console_write: interrupts off, polling.
    fn console_write(&mut self, bytes: &[u8]) {
        self.put(IER, 0);
        for &byte in bytes {
            let mut patience = 10_000;
            while self.get(LSR) & 0x60 != 0x60 {
                patience -= 1;
                if patience == 0 {
                    self.machine.main_thread(Step::Take(usize::MAX));
                }
            }
            self.put(DATA, byte);
        }
        self.put(IER, self.ier);
    }

    /// tty throttle: RTS.
    fn set_rts(&mut self, on: bool) {
        self.put(MCR, if on { 0x0b } else { 0x09 });
    }
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
        let uart = Uart16550::new(&counters);
        let machine = Machine::new(&uart, &counters, script.into_iter().cycle());
        check_streams(&machine, &mut Linux8250::new(&machine, crtscts), actions, input);
    }
}

#[test]
fn an_endless_line_leaves_the_guest_time() {
    for (step, check) in [
        (Step::Send(usize::MAX), check_endless_input as Check),
        (Step::Take(usize::MAX), check_endless_output),
    ] {
        let counters = Counters::default();
        let uart = Uart16550::new(&counters);
        let machine = Machine::new(&uart, &counters, std::iter::repeat(step));
        check(&machine, &mut Linux8250::new(&machine, false));
    }
}

fn get(uart: &dyn Uart, register: u16) -> u8 {
    uart.read(register) as u8
}

fn put(uart: &dyn Uart, register: u16, value: u8) {
    uart.write(register, value.into());
}

/// Both directions with two real threads, each woken by the other only.
#[test]
fn two_threads_wake_each_other() {
    const COUNT: usize = 300_000;
    let counters = Counters::default();
    let uart = Uart16550::new(&counters);
    let done = AtomicBool::new(false);
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(60);
    let wait = |flag: &AtomicUsize, what: &str| {
        while flag.swap(0, SeqCst) == 0 {
            assert!(std::time::Instant::now() < deadline, "{what} was never woken");
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
        put(&uart, IIR_FCR, 0xc1);
        put(&uart, MCR, 0x0b);
        put(&uart, IER, 3);
        let (mut sent, mut received) = (0, 0);
        while received < COUNT || sent < COUNT {
            if get(&uart, IIR_FCR) & 1 != 0 {
                wait(&counters.interrupts, "the guest");
                continue;
            }
            while get(&uart, LSR) & 1 != 0 {
                assert_eq!(get(&uart, DATA), byte(received), "input byte {received}");
                received += 1;
            }
            if get(&uart, LSR) & 0x20 != 0 {
                for _ in 0..16.min(COUNT - sent) {
                    put(&uart, DATA, byte(sent));
                    sent += 1;
                }
            }
            if sent == COUNT {
                put(&uart, IER, 1);
            }
        }
        done.store(true, SeqCst);
        (&counters).wake();
    });
}

#[test]
fn looks_like_a_16550a() {
    let counters = Counters::default();
    let uart = Uart16550::new(&counters);
    assert_eq!((get(&uart, IIR_FCR), get(&uart, LSR), get(&uart, MSR)), (0x01, 0x60, 0xb0));
    put(&uart, LCR, 0x83);
    put(&uart, 0, 1);
    put(&uart, 1, 2);
    assert_eq!((get(&uart, 0), get(&uart, 1)), (1, 2));
    put(&uart, LCR, 0x03);
    // Reserved bits of IER and MCR stay clear.
    put(&uart, IER, 0xf0);
    put(&uart, MCR, 0xe0);
    put(&uart, SCRATCH, 0x5a);
    assert_eq!((get(&uart, IER), get(&uart, MCR), get(&uart, SCRATCH)), (0, 0, 0x5a));
    // Loopback, as Linux's autoconfig tests it.
    put(&uart, MCR, 0x1a);
    assert_eq!(get(&uart, MSR) & 0xf0, 0x90);
    put(&uart, IIR_FCR, 1);
    for i in 0..17 {
        put(&uart, DATA, i);
    }
    assert_eq!(get(&uart, LSR) & 3, 3, "data and overrun");
    assert_eq!((0..16).map(|_| get(&uart, DATA)).sum::<u8>(), 120);
    assert_eq!(get(&uart, LSR) & 3, 0);
    put(&uart, MCR, 0x0b);
    // Priorities: data before transmit; the trigger level is 8.
    put(&uart, IIR_FCR, 0x81);
    put(&uart, IER, 3);
    assert!(uart.send(1));
    assert_eq!(get(&uart, IIR_FCR), 0xcc);
    (0..7).for_each(|_| assert!(uart.send(1)));
    assert_eq!(get(&uart, IIR_FCR), 0xc4);
    (0..8).for_each(|_| assert_eq!(get(&uart, DATA), 1));
    assert_eq!((get(&uart, IIR_FCR), get(&uart, IIR_FCR)), (0xc2, 0xc1));
    assert!(counters.interrupts.load(SeqCst) > 0);
}

#[test]
fn a_full_ring_holds_the_guest_back() {
    let counters = Counters::default();
    let uart = Uart16550::new(&counters);
    put(&uart, IIR_FCR, 1);
    put(&uart, MCR, 0x0b);
    put(&uart, IER, 8);
    let mut count = 0;
    while get(&uart, LSR) & 0x20 != 0 {
        put(&uart, DATA, 0);
        count += 1;
    }
    assert_eq!(count, line::OUTPUT - FIFO + 1);
    assert_eq!(get(&uart, IIR_FCR), 0xc0);
    assert_eq!((get(&uart, MSR), get(&uart, MSR)), (0xa1, 0xa0));
    while uart.output().pop().is_some() {}
    counters.interrupts.store(0, SeqCst);
    uart.output_taken();
    assert_eq!(counters.interrupts.load(SeqCst), 1);
    assert_eq!(get(&uart, MSR), 0xb1);
    assert_eq!(get(&uart, LSR), 0x60);
}
