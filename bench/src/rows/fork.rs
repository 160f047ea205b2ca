//! Fork and snapshot, with many entries and with few.

use anyhow::{Result, ensure};

use crate::fixtures::{million, open_main, store_of};
use crate::harness::{Bench, Times, Unit, settle};
use crate::plain::Bare;

pub(crate) fn run(bench: &mut Bench) -> Result<()> {
    let rounds = bench.pick(200, 16);
    let (large, entries) = million(bench)?;
    let dir = bench.dir()?;
    let small = dir.join("small");
    store_of(&small, 1000)?;
    let bare = Bare::create(&dir.join("bare.db"))?;
    settle()?;
    let (large, small) = (open_main(&large)?, open_main(&small)?);
    let [mut forks, mut snapshots] = <[[Times; 2]; 2]>::default();
    let mut empty = Times::default();
    for round in bench.rounds("forks and snapshots", rounds) {
        empty.time(1, || bare.smallest_commit())?;
        // Neither is always the first after the other's.
        let mut order = [(0, &large), (1, &small)];
        order.rotate_left(round % 2);
        for (i, branch) in order {
            let fork = forks[i].time(1, || Ok(branch.fork(&format!("fork-{round}"))?))?;
            ensure!(fork.exists("/dir-00000/file-00999")?);
        }
        for (i, branch) in order {
            let name = format!("snapshot-{round}");
            snapshots[i].time(1, || Ok(branch.snapshot(&name)?))?;
        }
    }
    ensure!(large.snapshots()?.len() == rounds);
    let last = format!("/dir-{:05}/file-00999", entries / 1000 - 1);
    ensure!(large.view_at("snapshot-0")?.exists(last)?);

    let empty_median = empty.stats().median;
    for (name, [large, small]) in [("fork", forks), ("snapshot", snapshots)] {
        let work = format!("{name} at 1,000,000 entries");
        bench.compare(&work, &large, "the same at 1,000", &small, 1.5);
        let mut over = Times::default();
        over.push(large.stats().median - empty_median);
        let work = format!("{work}, over an empty commit");
        bench.value(work, Unit::Seconds, &over, 1e-3).note(format!(
            "a commit that changes one number of a bare table takes {:.0} us",
            empty_median * 1e6
        ));
    }
    Ok(())
}
