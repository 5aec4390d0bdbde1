//! Driver of a PL011.
use super::{BURST, Driver, Registers};
use crate::registers::pl011::*;

/// The UART, 8N1. Its rate is what firmware made it: the clock that it is derived from is not known here.
#[derive(Debug)]
pub struct Pl011<R> {
    registers: R,
    control: Control,
    /// The other side drives CTS, so it is obeyed, and it may be relied on to obey RTS.
    flow_control: bool,
}

impl<R: Registers> Pl011<R> {
    /// Sets the UART up; `None` if there is none.
    pub fn new(mut registers: R) -> Option<Pl011<R>> {
        // The part number; its high bits share a register with the designer's.
        let part = |registers: &mut R| registers.read(ID) & 0xff | registers.read(ID + 1) << 8;
        if part(&mut registers) & 0xfff != u32::from(IDS[0]) {
            return None;
        }
        registers.write(IMSC, 0);
        // Toggling the FIFOs would clear them, and somebody may have typed already.
        let line = LineControl::EIGHT_BITS | LineControl::FIFOS;
        if registers.read(LCR_H) & LineControl::all().bits() != line.bits() {
            registers.write(LCR_H, line.bits());
        }
        let flags = Flags::from_bits_retain(registers.read(FR));
        // A line of three wires shows no CTS, for ever; on such a line there is none to wait for.
        let flow_control = flags.contains(Flags::CTS);
        let mut control = Control::ENABLE | Control::TRANSMIT | Control::RECEIVE | Control::DTR;
        control.set(Control::AUTO_CTS, flow_control);
        let mut driver = Pl011 { registers, control: Control::empty(), flow_control };
        driver.set(control | driver.request(true));
        Some(driver)
    }

    fn flags(&mut self) -> Flags {
        Flags::from_bits_retain(self.registers.read(FR))
    }

    fn set(&mut self, control: Control) {
        if control != self.control {
            self.control = control;
            self.registers.write(CR, control.bits());
        }
    }

    /// The bits that ask the other side to send, while the FIFO has room.
    fn request(&self, receive: bool) -> Control {
        match (receive, self.flow_control) {
            (false, _) => Control::empty(),
            (true, false) => Control::RTS,
            (true, true) => Control::RTS | Control::AUTO_RTS,
        }
    }
}

impl<R: Registers> Driver for Pl011<R> {
    fn receive(&mut self) -> Option<u8> {
        let there = !self.flags().contains(Flags::RECEIVE_EMPTY);
        there.then(|| self.registers.read(DR) as u8)
    }

    fn transmit(&mut self, source: &mut dyn FnMut() -> Option<u8>) -> usize {
        let mut count = 0;
        while count < BURST {
            let flags = self.flags();
            let room = if flags.contains(Flags::TRANSMIT_EMPTY) {
                LEAST_FIFO
            } else {
                usize::from(!flags.contains(Flags::TRANSMIT_FULL))
            };
            if room == 0 {
                break;
            }
            for _ in 0..room {
                let Some(byte) = source() else { return count };
                self.registers.write(DR, byte.into());
                count += 1;
            }
        }
        count
    }

    fn arm(&mut self, receive: bool, transmit: bool) {
        let others = self.control - (Control::RTS | Control::AUTO_RTS);
        self.set(others | self.request(receive));
        // Interrupts are not cleared but by what ends their causes: one that is cleared while its cause lasts
        // does not come again.
        let mut enable = Interrupts::empty();
        enable.set(Interrupts::RECEIVE | Interrupts::TIMEOUT, receive);
        enable.set(Interrupts::TRANSMIT, transmit);
        self.registers.write(IMSC, enable.bits());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A UART with a transmit FIFO of 16 bytes that nothing leaves by itself.
    struct Model {
        present: bool,
        cts: bool,
        queued: usize,
        received: Vec<u8>,
        written: Vec<(u16, u32)>,
    }

    impl Registers for &mut Model {
        fn read(&mut self, register: u16) -> u32 {
            let when = |on: bool, flag: Flags| if on { flag } else { Flags::empty() };
            match register {
                FR => (when(self.cts, Flags::CTS)
                    | when(self.received.is_empty(), Flags::RECEIVE_EMPTY)
                    | when(self.queued == 16, Flags::TRANSMIT_FULL)
                    | when(self.queued == 0, Flags::TRANSMIT_EMPTY))
                .bits(),
                DR => self.received.remove(0).into(),
                ID.. if self.present => IDS[usize::from(register - ID)].into(),
                _ => 0,
            }
        }

        fn write(&mut self, register: u16, value: u32) {
            if register == DR {
                assert!(self.queued < 16);
                self.queued += 1;
            } else {
                self.written.push((register, value));
            }
        }
    }

    fn model(present: bool, cts: bool) -> Model {
        Model { present, cts, queued: 0, received: vec![1, 2], written: Vec::new() }
    }

    #[test]
    fn fills_the_fifo_and_stops_the_other_side() {
        for cts in [false, true] {
            let mut model = model(true, cts);
            let mut driver = Pl011::new(&mut model).unwrap();
            let go = if cts { 0xc000 } else { 0 };
            let control =
                |driver: &mut Pl011<&mut Model>| core::mem::take(&mut driver.registers.written);
            assert_eq!(control(&mut driver), [(IMSC, 0), (LCR_H, 0x70), (CR, 0xf01 | go)]);
            let mut bytes = 0..40u8;
            assert_eq!(driver.transmit(&mut || bytes.next()), 16);
            driver.registers.queued = 14;
            assert_eq!(driver.transmit(&mut || bytes.next()), 2);
            assert_eq!(driver.receive(), Some(1));
            driver.arm(false, true);
            assert_eq!(control(&mut driver), [(CR, 0x701 | go & 0x8000), (IMSC, 0x20)]);
            driver.arm(true, false);
            assert_eq!(control(&mut driver), [(CR, 0xf01 | go), (IMSC, 0x50)]);
        }
        assert!(Pl011::new(&mut model(false, false)).is_none());
    }
}
