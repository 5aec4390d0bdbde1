//! A PL011, and Linux's driver for it.
use super::*;
use crate::registers::pl011::*;

type UartPl011<'a> = Emulated<Pl011, &'a Counters>;

const RX: u32 = 1 << 4;
const TX: u32 = 1 << 5;
const RT: u32 = 1 << 6;
const CTS: u32 = 1 << 1;
const RXFE: u32 = 1 << 4;
const TXFF: u32 = 1 << 5;
const BUSY: u32 = 1 << 3;
const RTS: u32 = 1 << 11;

/// Linux's drivers/tty/serial/amba-pl011.c without DMA.
struct LinuxPl011<'m, 'a> {
    machine: &'m Machine<'a>,
    mask: u32,
    to_write: VecDeque<u8>,
    read: Vec<u8>,
    crtscts: bool,
    stopped: bool,
}

impl<'m, 'a> LinuxPl011<'m, 'a> {
    fn new(machine: &'m Machine<'a>, crtscts: bool) -> Self {
        LinuxPl011 {
            machine,
            mask: 0,
            to_write: VecDeque::new(),
            read: Vec::new(),
            crtscts,
            stopped: false,
        }
    }

    fn set_mask(&mut self, mask: u32) {
        self.mask = mask;
        self.machine.write(IMSC, mask);
    }

    /// pl011_tx_chars: in an interrupt half a FIFO, whatever the flags say; otherwise until it is full.
    fn transmit(&mut self, from_interrupt: bool) -> bool {
        let mut count = FIFO / 2;
        while let Some(&byte) = self.to_write.front().filter(|_| !self.stopped) {
            if from_interrupt {
                if count == 0 {
                    return true;
                }
                count -= 1;
            } else if self.machine.read(FR) & TXFF != 0 {
                return true;
            }
            self.machine.write(DR, byte.into());
            self.to_write.pop_front();
        }
        self.set_mask(self.mask & !TX);
        false
    }

    /// pl011_fifo_to_tty.
    fn receive(&mut self) {
        for _ in 0..256 {
            if self.machine.read(FR) & RXFE != 0 {
                return;
            }
            self.read.push(self.machine.read(DR) as u8);
        }
    }
}

impl Linux for LinuxPl011<'_, '_> {
    /// Probing, pl011_startup, pl011_set_termios, pl011_set_mctrl.
    fn startup(&mut self) {
        let m = self.machine;
        let id = (0..8).map(|i| m.read(ID + i) as u8);
        assert!(id.eq(IDS));
        m.write(ICR, 0x7f2);
        m.write(IFLS, 0x12);
        m.write(LCR_H, 0x70);
        m.write(CR, m.read(CR) & 0xc00 | 0x301);
        m.write(ICR, RX | RT);
        for _ in 0..2 * FIFO {
            if m.read(FR) & RXFE != 0 {
                break;
            }
            m.read(DR);
        }
        self.set_mask(RX | RT | if self.crtscts { CTS } else { 0 });
        m.write(IBRD, 13);
        m.write(FBRD, 1);
        m.write(LCR_H, 0x70);
        self.set_rts(true);
    }

    fn to_write(&mut self) -> &mut VecDeque<u8> {
        &mut self.to_write
    }

    fn start_transmit(&mut self) {
        if self.transmit(false) {
            self.set_mask(self.mask | TX);
        }
    }

    fn interrupt(&mut self) {
        let mut status = self.machine.read(RIS) & self.mask;
        for _ in 0..256 {
            if status == 0 {
                return;
            }
            self.machine.write(ICR, status & !(TX | RT | RX));
            if status & (RT | RX) != 0 {
                self.receive();
            }
            if status & CTS != 0 {
                self.stopped = self.machine.read(FR) & 1 == 0;
                if !self.stopped {
                    self.start_transmit();
                }
            }
            if status & TX != 0 {
                self.transmit(true);
            }
            status = self.machine.read(RIS) & self.mask;
        }
    }

    /// pl011_console_write.
    fn console_write(&mut self, bytes: &[u8]) {
        let control = self.machine.read(CR);
        self.machine.write(CR, control & !(1 << 15) | 0x101);
        let wait = |flag| {
            let mut patience = 10_000;
            while self.machine.read(FR) & flag != 0 {
                patience -= 1;
                if patience == 0 {
                    self.machine.main_thread(Step::Take(usize::MAX));
                }
            }
        };
        for &byte in bytes {
            wait(TXFF);
            self.machine.write(DR, byte.into());
        }
        wait(BUSY);
        self.machine.write(CR, control);
    }

    fn set_rts(&mut self, on: bool) {
        let control = self.machine.read(CR) & !RTS;
        self.machine.write(CR, control | if on { RTS } else { 0 });
    }

    fn read(&self) -> &[u8] {
        &self.read
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
        busy: bool,
    ) {
        let counters = Counters::default();
        let uart = UartPl011::new(&counters);
        // Unless the line is busy the ring never fills up, and the driver needs no interrupts to send.
        let script = script.into_iter().cycle().map(|step| match step {
            Step::Take(_) if busy => Step::Nothing,
            step => step,
        });
        let machine = Machine::new(&uart, &counters, script);
        check_streams(&machine, &mut LinuxPl011::new(&machine, crtscts), actions, input);
    }

    #[test]
    fn any_access_is_answered(
        accesses in prop::collection::vec((any::<bool>(), 0u16..40, any::<u32>(), step()), 1..400),
        model: bool,
    ) {
        let counters = Counters::default();
        let uart: Box<dyn Uart> = match model {
            false => Box::new(Emulated::<Ns16550, _>::new(&counters)),
            true => Box::new(UartPl011::new(&counters)),
        };
        let machine = Machine::new(&*uart, &counters, std::iter::empty());
        machine.to_send.borrow_mut().extend(stream(2000));
        for (write, register, value, step) in accesses {
            // The last registers are those at the end of the page.
            let register = if register < 32 { register } else { register + 984 };
            machine.main_thread(step);
            if write {
                machine.write(register, value);
            } else {
                machine.read(register);
            }
        }
    }
}

#[test]
fn an_endless_line_leaves_the_guest_time() {
    // The ring fills up before it is emptied, or the driver would send without interrupts.
    let idle = 3 * line::OUTPUT;
    for (start, step, check) in [
        (0, Step::Send(usize::MAX), check_endless_input as Check),
        (idle, Step::Take(usize::MAX), check_endless_output),
    ] {
        let counters = Counters::default();
        let uart = UartPl011::new(&counters);
        let script = std::iter::repeat_n(Step::Nothing, start).chain(std::iter::repeat(step));
        let machine = Machine::new(&uart, &counters, script);
        check(&machine, &mut LinuxPl011::new(&machine, false));
    }
}

#[test]
fn looks_like_a_pl011() {
    let counters = Counters::default();
    let uart = UartPl011::new(&counters);
    assert_eq!((uart.read(CR), uart.read(IFLS), uart.read(FR)), (0x300, 0x12, 0x97));
    for (register, value, kept) in [
        (IBRD, u32::MAX, 0xffff),
        (FBRD, u32::MAX, 0x3f),
        (LCR_H, u32::MAX, 0xff),
        (IFLS, u32::MAX, 0x3f),
        (IMSC, u32::MAX, 0x7ff),
        (CR, u32::MAX, 0xff87),
        (RIS, u32::MAX, 0),
    ] {
        uart.write(register, value);
        assert_eq!(uart.read(register), kept, "{register:#x}");
    }
    uart.write(IFLS, 0x12);
    // Loopback, with more than the FIFO holds.
    (0..33).for_each(|i| uart.write(DR, i));
    assert_eq!(uart.read(RIS), 0x400 | RX | RT | TX);
    assert_eq!((uart.read(FR), uart.read(RSR_ECR)), (0x1c7, 8));
    uart.write(ICR, RX);
    assert_eq!((uart.read(DR), uart.read(DR)), (1 << 11, 1));
    assert_eq!(uart.read(RIS) & (RX | RT), RX | RT);
    (0..15).for_each(|_| _ = uart.read(DR));
    assert_eq!(uart.read(RIS) & (RX | RT), RT);
    (0..15).for_each(|_| _ = uart.read(DR));
    assert_eq!((uart.read(RIS) & (RX | RT), uart.read(FR) & RXFE), (0, RXFE));
}

#[test]
fn input_waits_for_a_receiver() {
    let counters = Counters::default();
    let uart = UartPl011::new(&counters);
    uart.write(LCR_H, 0x70);
    uart.write(IMSC, RX | RT);
    assert!(uart.send(b'a'));
    // On, but not asking for anything; then asking, by either means.
    for (control, there) in [(0x301, false), (0x1301, false), (0xb01, true), (0x4301, true)] {
        uart.write(CR, control);
        assert_eq!(uart.read(FR) & RXFE == 0, there, "{control:#x}");
        if there {
            assert_eq!(counters.interrupts.swap(0, SeqCst), 1);
            assert_eq!(uart.read(DR), b'a'.into());
            assert!(uart.send(b'a'));
        }
    }
}

#[test]
fn a_full_ring_holds_the_guest_back() {
    let counters = Counters::default();
    let uart = UartPl011::new(&counters);
    uart.write(LCR_H, 0x70);
    uart.write(IMSC, CTS);
    let mut count = 0;
    while uart.read(FR) & TXFF == 0 {
        uart.write(DR, 0);
        count += 1;
    }
    assert_eq!(count, line::OUTPUT);
    assert_eq!((uart.read(FR) & (BUSY | 1), uart.read(MIS)), (BUSY, CTS));
    uart.write(ICR, CTS);
    assert_eq!(uart.read(MIS), 0);
    counters.interrupts.store(0, SeqCst);
    while uart.output().pop().is_some() {}
    uart.output_taken();
    assert_eq!(counters.interrupts.load(SeqCst), 1);
    assert_eq!((uart.read(FR) & (BUSY | 1), uart.read(MIS)), (1, CTS));
}
