//! Delete marks as readers at different snapshots see them.

use kalamdb_engine::marks::Marks;

#[test]
fn a_reader_sees_the_marks_of_its_snapshot_and_no_others() {
    let marks = Marks::default();
    assert!(marks.at(100).is_none());
    marks.add(7, 10, 0);
    marks.add(3, 12, 0);
    assert!(marks.at(9).is_none());
    assert_eq!(marks.at(10).unwrap().iter().collect::<Vec<_>>(), [7]);
    assert_eq!(marks.at(12).unwrap().iter().collect::<Vec<_>>(), [3, 7]);
    assert_eq!(marks.at(11).unwrap().iter().collect::<Vec<_>>(), [7], "an older snapshot after a newer one");
}

#[test]
fn a_row_is_marked_once() {
    let marks = Marks::default();
    assert!(marks.add(1, 5, 0));
    assert!(!marks.add(1, 6, 0));
}

#[test]
fn folding_keeps_what_open_snapshots_need() {
    let marks = Marks::default();
    for row in 0..1_000u32 {
        marks.add(row, u64::from(row) + 1, 300);
    }
    for snapshot in [300, 301, 500, 999, 1_000] {
        assert_eq!(marks.at(snapshot).unwrap().len(), snapshot, "at {snapshot}");
    }
    assert_eq!(marks.after(990).len(), 10);
}

#[test]
fn what_was_marked_at_a_commit_is_known_after_folding_until_it_is_forgotten() {
    let marks = Marks::default();
    for row in 0..1_000u32 {
        marks.add(row, u64::from(row) + 1, 900);
    }
    assert_eq!(marks.up_to(400), (0..400).collect());
    assert_eq!((marks.after(400).len(), marks.len_up_to(400)), (600, 400));
    marks.forget(400, 950);
    assert_eq!(marks.up_to(400), (0..400).collect());
    assert_eq!(marks.up_to(300), (0..400).collect(), "those forgotten count as the oldest");
    assert_eq!(marks.after(0).first(), Some(&(401, 400)));
    marks.forget(980, 950);
    assert_eq!(marks.after(0).first(), Some(&(951, 950)), "a mark that is not folded is not forgotten");
    assert_eq!(marks.at(975).unwrap().len(), 975);
    assert_eq!(marks.len(), 1_000);
}
