//! The default guests without Bulkhead: what their user land does, and that the emulators' plumbing works.

use std::path::Path;
use std::time::Instant;

use bulkhead::machine::{End, Image, Settings};
use ci::{PROMPT, Target, seconds, with_machine};
use configs::Architecture;

use crate::guest::cpus;

fn console(on: Target) -> &'static str {
    match on.architecture() {
        Architecture::X86_64 => "ttyS0",
        Architecture::Arm64 => "ttyAMA0",
    }
}

/// The default guest as an image of its own; `dir` keeps its RAM disk.
fn default_guest(on: Target, dir: &Path) -> Image {
    let console = console(on);
    let kernel = bulkhead::guest::kernel(on.architecture()).unwrap_or_else(|e| panic!("{e:#}"));
    let contents = bulkhead::guest::initrd(on.architecture()).unwrap_or_else(|e| panic!("{e:#}"));
    let initrd = dir.join("initrd");
    std::fs::write(&initrd, contents).unwrap();
    Image { kernel, bundle: initrd, options: format!("console={console} quiet panic=1") }
}

fn the_default_guest_by_itself(on: Target) {
    let dir = tempfile::tempdir().unwrap();
    let image = default_guest(on, dir.path());
    let settings = Settings::new(on.machine(512 << 20));
    let console = console(on);
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

/// How the emulator tells that a machine has reset itself.
fn resets(on: Target) {
    let dir = tempfile::tempdir().unwrap();
    let settings = Settings::new(on.machine(512 << 20));
    for (way, triple_fault) in [("t", true), ("k", false)] {
        let mut image = default_guest(on, dir.path());
        image.options += &format!(" panic=-1 reboot={way} rdinit=/none");
        with_machine("resets", on, &image, &settings, |guest| {
            anyhow::ensure!(guest.finish(seconds(60))? == End::Reset { triple_fault });
            Ok(())
        });
    }
}

/// Seconds to the shell, with and without Bulkhead, in turn. The machine should have nothing else to do:
/// `cargo test -p ci --test system -- --ignored --nocapture --test-threads 1 boot_times`
fn boot_times(on: Target) {
    let dir = tempfile::tempdir().unwrap();
    let direct = default_guest(on, dir.path());
    let config = on.linux("boot-times", &[]).unwrap();
    let ours = on.image(&config);
    let time = |image: &Image, settings: &Settings| {
        let start = Instant::now();
        let mut seconds = 0.0;
        with_machine("boot", on, image, settings, |guest| {
            guest.expect(PROMPT, on.boot())?;
            seconds = start.elapsed().as_secs_f64();
            Ok(())
        });
        seconds
    };
    let mut sums = [0.0; 2];
    for _ in 0..BOOTS {
        sums[0] += time(&direct, &Settings::new(on.machine(512 << 20)));
        sums[1] += time(&ours, &Settings::new(config.machine));
    }
    let [direct, ours] = sums.map(|sum| sum / BOOTS as f64);
    eprintln!(
        "{on}: {direct:.2} s by itself, {ours:.2} s on Bulkhead: {:.2} times as long",
        ours / direct
    );
}

/// Boots of each kind.
const BOOTS: usize = 3;

#[test]
#[ignore = "measures wall-clock time"]
fn boot_times_x86() {
    boot_times(crate::targets::x86());
}

#[test]
#[ignore = "measures wall-clock time"]
fn boot_times_arm64() {
    boot_times(crate::targets::max_gic3());
}

#[test]
#[ignore = "measures wall-clock time"]
fn boot_times_bochs() {
    boot_times(crate::targets::bochs());
}

tests! {
    the_default_guest_by_itself: x86, max_gic3;
    resets: x86;
}
