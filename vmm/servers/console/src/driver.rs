//! Driver of the machine's UART, a 16550 or compatible.
use crate::registers::*;

/// Access to the registers of a UART, by offset.
pub trait Ports {
    /// Reads a register.
    fn read(&mut self, register: u8) -> u8;
    /// Writes a register.
    fn write(&mut self, register: u8, value: u8);
}

/// What a line status register that is not there reads as.
const ABSENT: u8 = 0xff;

/// Most bytes that one call moves in each direction, so that none starves the other.
pub const BURST: usize = 1024;

/// The UART at 115,200 baud, 8N1.
#[derive(Debug)]
pub struct Driver<P> {
    ports: P,
    /// The other side drives CTS, so it is obeyed.
    flow_control: bool,
    modem: ModemControl,
}

impl<P: Ports> Driver<P> {
    /// Sets the UART up; `None` if there is none.
    pub fn new(mut ports: P) -> Option<Driver<P>> {
        if ports.read(LSR) == ABSENT {
            return None;
        }
        ports.write(IER, 0);
        ports.write(LCR, (LineControl::EIGHT_BITS | LineControl::DIVISOR).bits());
        // 1.8432 MHz / 16 / 1 = 115,200 baud.
        ports.write(DATA, 1);
        ports.write(IER, 0);
        ports.write(LCR, LineControl::EIGHT_BITS.bits());
        // The receive FIFO is not cleared: somebody may have typed already.
        ports.write(
            IIR_FCR,
            (FifoControl::ENABLE | FifoControl::TRIGGER_HIGH).bits(),
        );
        let modem = ModemControl::DTR | ModemControl::RTS | ModemControl::OUT2;
        ports.write(MCR, modem.bits());
        let status = ModemStatus::from_bits_retain(ports.read(MSR));
        // A line of three wires shows no CTS, for ever; on such a line there is none to wait for.
        Some(Driver {
            flow_control: status.contains(ModemStatus::CTS),
            ports,
            modem,
        })
    }

    /// Reads what arrived, as long as `accept` says that it has room for a byte.
    pub fn receive(&mut self, mut room: impl FnMut() -> bool, mut sink: impl FnMut(u8)) -> usize {
        let mut count = 0;
        while count < BURST && room() {
            let status = LineStatus::from_bits_retain(self.ports.read(LSR));
            if !status.contains(LineStatus::DATA) {
                break;
            }
            sink(self.ports.read(DATA));
            count += 1;
        }
        count
    }

    fn may_transmit(&mut self) -> bool {
        let status = LineStatus::from_bits_retain(self.ports.read(LSR));
        let clear = |driver: &mut Self| {
            ModemStatus::from_bits_retain(driver.ports.read(MSR)).contains(ModemStatus::CTS)
        };
        status.contains(LineStatus::TRANSMIT_EMPTY) && (!self.flow_control || clear(self))
    }

    /// Transmits what `source` gives, as far as the FIFO takes it now. Returns the number of bytes.
    pub fn transmit(&mut self, mut source: impl FnMut() -> Option<u8>) -> usize {
        let mut count = 0;
        while count < BURST && self.may_transmit() {
            for _ in 0..FIFO {
                let Some(byte) = source() else { return count };
                self.ports.write(DATA, byte);
                count += 1;
            }
        }
        count
    }

    /// Prepares for waiting: the next interrupt comes when data arrives, if `receive`, and when the FIFO is
    /// empty, if `transmit`. Without `receive` the other side is told to stop by RTS, and what it still sends
    /// stays in the FIFO.
    pub fn arm(&mut self, receive: bool, transmit: bool) {
        let mut modem = self.modem;
        modem.set(ModemControl::RTS, receive);
        if modem != self.modem {
            self.modem = modem;
            self.ports.write(MCR, modem.bits());
        }
        let mut enable = InterruptEnable::empty();
        enable.set(InterruptEnable::RECEIVED, receive);
        enable.set(InterruptEnable::TRANSMIT, transmit);
        enable.set(InterruptEnable::MODEM, transmit && self.flow_control);
        // The line is edge-triggered: the output has to fall, so that a cause which is there already
        // raises it again.
        self.ports.write(IER, 0);
        self.ports.write(IER, enable.bits());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A UART with both FIFOs and an interrupt output.
    #[derive(Default)]
    struct Model {
        sent: Vec<u8>,
        space: usize,
        received: Vec<u8>,
        ier: u8,
        mcr: u8,
        lcr: u8,
        cts: bool,
        edges: usize,
        high: bool,
    }

    impl Model {
        fn update(&mut self) {
            let high = self.ier & 1 != 0 && !self.received.is_empty()
                || self.ier & 2 != 0 && self.space > 0;
            self.edges += usize::from(high && !self.high);
            self.high = high;
        }
    }

    impl Ports for &mut Model {
        fn read(&mut self, register: u8) -> u8 {
            let value = match register {
                DATA => self.received.remove(0),
                LSR => u8::from(!self.received.is_empty()) | if self.space > 0 { 0x60 } else { 0 },
                MSR => {
                    if self.cts {
                        0xb0
                    } else {
                        0xa0
                    }
                }
                _ => 0,
            };
            self.update();
            value
        }

        fn write(&mut self, register: u8, value: u8) {
            match register {
                LCR => self.lcr = value,
                DATA if self.lcr & 0x80 == 0 => {
                    self.sent.push(value);
                    self.space -= 1;
                }
                IER if self.lcr & 0x80 == 0 => self.ier = value,
                MCR => self.mcr = value,
                _ => {}
            }
            self.update();
        }
    }

    #[test]
    fn waits_for_room_and_for_clear_to_send() {
        let mut model = Model {
            cts: true,
            space: 16,
            ..Model::default()
        };
        let mut driver = Driver::new(&mut model).unwrap();
        let mut bytes = 0..40u8;
        assert_eq!(driver.transmit(|| bytes.next()), 16);
        driver.arm(true, true);
        assert_eq!(driver.ports.edges, 0);
        driver.ports.space = 16;
        driver.ports.cts = false;
        driver.ports.update();
        assert_eq!(driver.ports.edges, 1);
        assert_eq!(driver.transmit(|| bytes.next()), 0);
        driver.ports.cts = true;
        assert_eq!(driver.transmit(|| bytes.next()), 16);
        // Input that cannot be taken stays where it is, and raises the output again later.
        driver.ports.received = vec![1, 2, 3];
        let mut room = 1;
        let mut got = Vec::new();
        driver.receive(|| core::mem::take(&mut room) > 0, |byte| got.push(byte));
        driver.arm(false, false);
        assert_eq!((got, driver.ports.mcr & 2), (vec![1], 0));
        let before = driver.ports.edges;
        driver.arm(true, false);
        assert_eq!((driver.ports.edges, driver.ports.mcr & 2), (before + 1, 2));
    }

    #[test]
    fn without_a_uart_there_is_no_driver() {
        struct Nothing;
        impl Ports for Nothing {
            fn read(&mut self, _register: u8) -> u8 {
                0xff
            }
            fn write(&mut self, _register: u8, _value: u8) {}
        }
        assert!(Driver::new(Nothing).is_none());
    }
}
