//! Random runs against a plain list of what was written.

mod common;

use common::{Story, inline, open};
use kalamdb_wal::sim::{Crash, Freeze, SimDisk};
use kalamdb_wal::{Options, SyncPolicy};
use proptest::prelude::*;

fn crashes() -> impl Strategy<Value = Crash> {
    prop_oneof![
        Just(Crash::LoseUnsynced),
        Just(Crash::KeepUnsynced),
        Just(Crash::KillProcess),
        any::<u64>().prop_map(Crash::Torn),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    /// Several lives on one disk, each ended by a crash at a random instant, each with another seed.
    #[test]
    fn what_was_answered_for_survives_any_number_of_crashes(
        lives in prop::collection::vec((any::<u32>(), 1..400u64, crashes()), 1..6),
        segment_bytes in 8_192..20_000u64,
    ) {
        let options = Options { segment_bytes, ..inline() };
        let mut disk = SimDisk::new();
        let mut story = Story::new();
        for (seed, change, crash) in lives {
            disk.freeze_at(Freeze::Change(disk.counts().changes + change));
            let _ = story.run(&disk, &options, seed.into(), 30);
            disk = disk.crash(crash);
            let (log, recovered, replayed) = open(&disk, options.clone());
            story.check(&recovered, &replayed);
            drop(log);
        }
    }

    /// Without syncs nothing is promised about a power cut but that the rest is a true prefix.
    #[test]
    fn without_syncs_a_power_cut_leaves_a_true_prefix(seed in any::<u32>(), torn in any::<u64>()) {
        let disk = SimDisk::new();
        let options = Options { sync: SyncPolicy::Never, ..inline() };
        let mut story = Story::new();
        let (log, ..) = open(&disk, options.clone());
        for n in 0..u64::from(seed % 40) {
            let lsn = story.append(&log, seed.into(), (n * 131 % 1400) as usize).expect("appends");
            log.wait_durable(lsn).expect("handed over");
        }
        let (_, recovered, replayed) = open(&disk.crash(Crash::Torn(torn)), options);
        story.check(&recovered, &replayed);
    }
}
