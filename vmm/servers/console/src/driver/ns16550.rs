//! Driver of a 16550 or compatible UART.
use super::{BURST, Driver, Registers};
use crate::registers::ns16550::*;

/// What a line status register that is not there reads as.
const ABSENT: u8 = 0xff;

/// The UART at 115,200 baud, 8N1.
#[derive(Debug)]
pub struct Ns16550<R> {
    registers: R,
    /// The other side drives CTS, so it is obeyed.
    flow_control: bool,
    modem: ModemControl,
}

impl<R: Registers> Ns16550<R> {
    /// Sets the UART up; `None` if there is none.
    pub fn new(mut registers: R) -> Option<Ns16550<R>> {
        if registers.read(LSR) as u8 == ABSENT {
            return None;
        }
        let mut write = |register, value: u8| registers.write(register, value.into());
        write(IER, 0);
        write(LCR, (LineControl::EIGHT_BITS | LineControl::DIVISOR).bits());
        // 1.8432 MHz / 16 / 1 = 115,200 baud.
        write(DATA, 1);
        write(IER, 0);
        write(LCR, LineControl::EIGHT_BITS.bits());
        // The receive FIFO is not cleared: somebody may have typed already.
        let fifos = FifoControl::ENABLE | FifoControl::TRIGGER_HIGH;
        write(IIR_FCR, fifos.bits());
        let modem = ModemControl::DTR | ModemControl::RTS | ModemControl::OUT2;
        write(MCR, modem.bits());
        let mut driver = Ns16550 { registers, flow_control: false, modem };
        // A line of three wires shows no CTS, for ever; on such a line there is none to wait for.
        driver.flow_control = driver.is_clear_to_send();
        Some(driver)
    }

    fn status(&mut self) -> LineStatus {
        LineStatus::from_bits_retain(self.registers.read(LSR) as u8)
    }

    /// CTS.
    fn is_clear_to_send(&mut self) -> bool {
        let status = ModemStatus::from_bits_retain(self.registers.read(MSR) as u8);
        status.contains(ModemStatus::CTS)
    }

    fn may_transmit(&mut self) -> bool {
        let room = self.status().contains(LineStatus::TRANSMIT_EMPTY);
        room && (!self.flow_control || self.is_clear_to_send())
    }
}

impl<R: Registers> Driver for Ns16550<R> {
    fn receive(&mut self) -> Option<u8> {
        let there = self.status().contains(LineStatus::DATA);
        there.then(|| self.registers.read(DATA) as u8)
    }

    fn transmit(&mut self, source: &mut dyn FnMut() -> Option<u8>) -> usize {
        let mut count = 0;
        while count < BURST && self.may_transmit() {
            for _ in 0..FIFO {
                let Some(byte) = source() else { return count };
                self.registers.write(DATA, byte.into());
                count += 1;
            }
        }
        count
    }

    fn arm(&mut self, receive: bool, transmit: bool) {
        let mut modem = self.modem;
        modem.set(ModemControl::RTS, receive);
        if modem != self.modem {
            self.modem = modem;
            self.registers.write(MCR, modem.bits().into());
        }
        let mut enable = InterruptEnable::empty();
        enable.set(InterruptEnable::RECEIVED, receive);
        enable.set(InterruptEnable::TRANSMIT, transmit);
        enable.set(InterruptEnable::MODEM, transmit && self.flow_control);
        // The line is edge-triggered: the output has to fall, so that a cause which is there already
        // raises it again.
        self.registers.write(IER, 0);
        self.registers.write(IER, enable.bits().into());
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

    impl Registers for &mut Model {
        fn read(&mut self, register: u16) -> u32 {
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
            value.into()
        }

        fn write(&mut self, register: u16, value: u32) {
            let value = value as u8;
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
        let mut model = Model { cts: true, space: 16, ..Model::default() };
        let mut driver = Ns16550::new(&mut model).unwrap();
        let mut bytes = 0..40u8;
        assert_eq!(driver.transmit(&mut || bytes.next()), 16);
        driver.arm(true, true);
        assert_eq!(driver.registers.edges, 0);
        driver.registers.space = 16;
        driver.registers.cts = false;
        driver.registers.update();
        assert_eq!(driver.registers.edges, 1);
        assert_eq!(driver.transmit(&mut || bytes.next()), 0);
        driver.registers.cts = true;
        assert_eq!(driver.transmit(&mut || bytes.next()), 16);
        // Input that cannot be taken stays where it is, and raises the output again later.
        driver.registers.received = vec![1, 2, 3];
        assert_eq!(driver.receive(), Some(1));
        driver.arm(false, false);
        assert_eq!(driver.registers.mcr & 2, 0);
        let before = driver.registers.edges;
        driver.arm(true, false);
        assert_eq!((driver.registers.edges, driver.registers.mcr & 2), (before + 1, 2));
    }

    #[test]
    fn without_a_uart_there_is_no_driver() {
        struct Nothing;
        impl Registers for Nothing {
            fn read(&mut self, _register: u16) -> u32 {
                0xff
            }
            fn write(&mut self, _register: u16, _value: u32) {}
        }
        assert!(Ns16550::new(Nothing).is_none());
    }
}
