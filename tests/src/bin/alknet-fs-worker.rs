//! The process that the crash, power, fault and concurrency tests start, and end.
#![allow(clippy::unwrap_used, reason = "a test")]

use std::path::Path;

use alknet_fs_tests::{power, worker};

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    match args[..] {
        ["work", store, mode] => {
            worker::serve(Path::new(store), serde_json::from_str(mode).unwrap());
        }
        ["power", plan] => {
            let plan = serde_json::from_str(plan).unwrap();
            let worker = std::env::current_exe().unwrap();
            match power::cut(&plan, &worker) {
                Ok(report) => println!("{}", serde_json::to_string(&report).unwrap()),
                Err(reason) => {
                    println!("{reason}");
                    std::process::exit(power::CANNOT_MOUNT);
                }
            }
        }
        _ => panic!("unknown arguments: {args:?}"),
    }
}
