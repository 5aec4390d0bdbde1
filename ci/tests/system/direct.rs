//! The default guests without Bulkhead: what their user land does, and that the emulators' plumbing works.

use bulkhead::machine::{End, Image, Settings};
use ci::{PROMPT, Target, seconds, with_machine};
use configs::Architecture;

use crate::guest::cpus;

fn the_default_guest_by_itself(on: Target) {
    let console = match on.architecture() {
        Architecture::X86_64 => "ttyS0",
        Architecture::Arm64 => "ttyAMA0",
    };
    let kernel = bulkhead::guest::kernel(on.architecture()).unwrap_or_else(|e| panic!("{e:#}"));
    let contents = bulkhead::guest::initrd(on.architecture()).unwrap_or_else(|e| panic!("{e:#}"));
    let dir = tempfile::tempdir().unwrap();
    let initrd = dir.path().join("initrd");
    std::fs::write(&initrd, contents).unwrap();
    let image = Image {
        kernel,
        bundle: initrd,
        options: format!("console={console} quiet panic=1"),
    };
    let settings = Settings::new(on.machine(512 << 20));
    with_machine("direct", on, &image, &settings, |guest| {
        guest.expect(r"Linux \d+\.\d+\S+ in a", seconds(60))?;
        guest.expect(&cpus(1), seconds(20))?;
        guest.expect(PROMPT, seconds(20))?;
        guest.type_line("echo $((6 * 7)) && tty");
        guest.expect(&format!("\n42\n/dev/{console}\n"), seconds(20))?;
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

tests! {
    the_default_guest_by_itself: x86, max_gic3;
}
