//! The default guest without Bulkhead: what its user land does, and that the emulator's plumbing works.

use bulkhead::machine::{End, Image, Kind, Settings};
use ci::{PROMPT, seconds, with_machine};
use configs::Machine;

#[test]
fn the_default_guest_by_itself() {
    let kernel = bulkhead::guest::kernel().unwrap_or_else(|e| panic!("{e:#}"));
    let dir = tempfile::tempdir().unwrap();
    let initrd = dir.path().join("initrd");
    std::fs::write(
        &initrd,
        bulkhead::guest::initrd().unwrap_or_else(|e| panic!("{e:#}")),
    )
    .unwrap();
    let image = Image {
        kernel,
        bundle: initrd,
        options: "console=ttyS0 quiet panic=1".into(),
    };
    let machine = Machine {
        memory: 512 << 20,
        cpus: 1,
    };
    let settings = Settings::new(machine);
    with_machine("direct", Kind::QemuX86, &image, &settings, |guest| {
        guest.expect(r"Linux \d+\.\d+\S+ in a", seconds(60))?;
        guest.expect(r"CPUs: +1 ", seconds(20))?;
        guest.expect(PROMPT, seconds(20))?;
        guest.type_line("echo $((6 * 7)) && tty");
        guest.expect("\n42\n/dev/ttyS0\n", seconds(20))?;
        guest.expect(PROMPT, seconds(20))?;
        guest.type_line("sleep 100");
        std::thread::sleep(seconds(1));
        guest.send(b"\x03");
        guest.expect(PROMPT, seconds(20))?;
        guest.type_line("which base64 sha256sum stty && poweroff");
        anyhow::ensure!(guest.finish(seconds(30))? == End::PowerOff);
        Ok(())
    });
}
