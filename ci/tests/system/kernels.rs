//! Other kernels than the default one.

use bulkhead::guest;
use ci::Target;

use crate::guest::{ask, power_off, shell};

fn the_real_time_kernel(on: Target) {
    let kernel = guest::real_time_kernel(on.architecture()).unwrap_or_else(|e| panic!("{e:#}"));
    let kernel = format!("kernel = {kernel:?}");
    let config = on.linux("real-time", &[("kernel = \"default\"", &kernel)]).unwrap();
    on.boots(&config, |guest| {
        shell(on, guest)?;
        ask(guest, "uname -v", r"\n#.* PREEMPT_RT .*\n")?;
        power_off(guest)
    });
}

tests! {
    the_real_time_kernel: a53_gic3_2cpus;
}
