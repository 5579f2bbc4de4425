//! What is in a log's directory: the mark, the segments with their headers, the spares. Changes nothing.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::Lsn;
use crate::disk::Disk;
use crate::durable::read_range;
use crate::error::{Error, IoContext};
use crate::frame::TERMINATOR;
use crate::header::{SEGMENT_HEADER, SegmentHeader};
use crate::mark::Mark;
use crate::names::{self, Name};
use crate::segment::Segment;

/// No log is that long; beyond it arithmetic would have to be careful.
const MAX_LSN: Lsn = 1 << 62;

#[derive(Debug)]
pub(crate) struct Survey {
    /// `None` if there is no log here, not even an empty one.
    pub(crate) mark: Option<Mark>,
    /// Oldest first; each belongs to the log of the mark and is as long as it should be.
    pub(crate) segments: Vec<Arc<Segment>>,
    pub(crate) spares: Vec<(u64, PathBuf)>,
}

impl Survey {
    pub(crate) fn new(disk: &dyn Disk, dir: &Path) -> Result<Self, Error> {
        let mut firsts = Vec::new();
        let mut survey = Self { mark: None, segments: Vec::new(), spares: Vec::new() };
        let mut marked = false;
        for entry in disk.read_dir(dir).at("list", dir)? {
            let path = dir.join(&entry.name);
            match names::parse(&entry.name) {
                Name::Segment(first) => firsts.push((first, path)),
                Name::Misnamed => return Err(Error::corrupt(&path, 0, "no segment has such a name")),
                Name::Spare(number) => survey.spares.push((number, path)),
                Name::Other => marked |= entry.name == names::MARK,
            }
        }
        firsts.sort();
        survey.spares.sort();
        survey.mark = marked.then(|| Mark::read(disk, dir)).transpose()?;
        survey.open_segments(disk, dir, firsts)?;
        Ok(survey)
    }

    /// The segments that can be read at all, oldest first, whatever is wrong with the others or the mark.
    pub(crate) fn readable(disk: &dyn Disk, dir: &Path) -> Result<Vec<Arc<Segment>>, Error> {
        let mut segments = Vec::new();
        for entry in disk.read_dir(dir).at("list", dir)? {
            if let Name::Segment(first) = names::parse(&entry.name) {
                match open_segment(disk, None, first, dir.join(&entry.name)) {
                    Ok(segment) => segments.push(Arc::new(segment)),
                    Err(Error::Corrupt { .. }) => {}
                    Err(other) => return Err(other),
                }
            }
        }
        segments.sort_by_key(|s| s.header.first);
        Ok(segments)
    }

    fn open_segments(
        &mut self,
        disk: &dyn Disk,
        dir: &Path,
        firsts: Vec<(Lsn, PathBuf)>,
    ) -> Result<(), Error> {
        let Some(mark) = self.mark else {
            let missing = || Error::corrupt(&Mark::path(dir), 0, "there are segments but no mark");
            return if firsts.is_empty() { Ok(()) } else { Err(missing()) };
        };
        for (first, path) in firsts {
            self.segments.push(Arc::new(open_segment(disk, Some(&mark), first, path)?));
        }
        let begin = self.segments.first().map_or(1, |s| s.header.first);
        let empty = self.segments.is_empty() && mark.known_durable() > 0;
        if empty || begin > mark.low_water {
            let reason =
                format!("record {} is needed, and the segment that had it is missing", mark.low_water);
            return Err(Error::corrupt(&dir.join(names::segment(mark.low_water)), 0, reason));
        }
        self.seal_all_but_the_last();
        Ok(())
    }

    fn seal_all_but_the_last(&self) {
        for pair in self.segments.windows(2) {
            let [segment, next] = pair else { continue };
            segment.seal(next.header.first - 1, next.header.created);
        }
    }
}

fn open_segment(disk: &dyn Disk, mark: Option<&Mark>, first: Lsn, path: PathBuf) -> Result<Segment, Error> {
    let file = disk.open(&path).at("open", &path)?;
    let block = read_range(&*file, &path, 0, SEGMENT_HEADER)?;
    let header = SegmentHeader::decode(&block, &path)?;
    if mark.is_some_and(|mark| mark.log != header.log) {
        return Err(Error::corrupt(&path, 16, "the segment belongs to another log"));
    }
    if header.first != first || !(1..MAX_LSN).contains(&first) {
        return Err(Error::corrupt(
            &path,
            32,
            format!("the segment says it begins at record {}", header.first),
        ));
    }
    if header.capacity < (SEGMENT_HEADER + TERMINATOR) as u64 {
        return Err(Error::corrupt(
            &path,
            40,
            format!("the segment says it is {} bytes long, less than its header", header.capacity),
        ));
    }
    let len = file.len().at("measure", &path)?;
    if len < header.capacity {
        return Err(Error::corrupt(
            &path,
            len,
            format!("the file has been cut; it had {} bytes", header.capacity),
        ));
    }
    Ok(Segment::new(header, path, file))
}
