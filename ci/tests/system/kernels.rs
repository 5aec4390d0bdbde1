//! Other kernels than the default one.

use bulkhead::guest;
use ci::{ANSWER, PROMPT, Target};

use crate::endings::{power_off, shell};

fn the_real_time_kernel(on: Target) {
    let kernel = guest::real_time_kernel(on.architecture()).unwrap_or_else(|e| panic!("{e:#}"));
    let kernel = format!("kernel = {kernel:?}");
    let config = on
        .linux("real-time", &[("kernel = \"default\"", &kernel)])
        .unwrap();
    on.boots(&config, |guest| {
        shell(on, guest)?;
        guest.type_line("uname -v");
        guest.expect(r"\n#.* PREEMPT_RT .*\n", ANSWER)?;
        guest.expect(PROMPT, ANSWER)?;
        power_off(guest)
    });
}

tests! {
    the_real_time_kernel: a53_gic3_2cpus;
}
