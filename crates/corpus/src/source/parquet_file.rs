//! One Parquet file: its footer, and the rows of a unit.

use super::locate::{Located, store_error};
use super::pointer::BYTES_MAX;
use super::{Columns, check_columns, is_text, refuse_pointer};
use crate::plan::Unit;
use crate::{CorpusError, ErrorKind, Place, Spot};
use arrow::array::RecordBatch;
use arrow::compute::concat_batches;
use bytes::Bytes;
use futures::future::BoxFuture;
use futures::{FutureExt, TryStreamExt};
use object_store::ObjectStoreExt;
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::{ArrowReaderMetadata, ArrowReaderOptions, RowSelection, RowSelector};
use parquet::arrow::async_reader::{AsyncFileReader, ParquetRecordBatchStreamBuilder};
use parquet::errors::{ParquetError, Result as ParquetResult};
use parquet::file::metadata::{PageIndexPolicy, ParquetMetaData, ParquetMetaDataReader};
use std::ops::Range;
use std::sync::Arc;

pub(super) struct ParquetFile {
    located: Located,
    metadata: ArrowReaderMetadata,
    projection: ProjectionMask,
    /// For each column in the source's order: its place among the projected ones, which come in file order.
    order: Vec<usize>,
}

impl ParquetFile {
    pub(super) async fn open(located: &Located, columns: &Columns) -> Result<Self, CorpusError> {
        let name = located.name.as_str();
        // With the page index only a unit's own pages are fetched, not its whole column chunk.
        let options = ArrowReaderOptions::new().with_offset_index_policy(PageIndexPolicy::Optional);
        let metadata = match ArrowReaderMetadata::load_async(&mut Reader(located.clone()), options).await {
            Ok(metadata) => metadata,
            Err(error) => {
                if located.size < BYTES_MAX as u64 {
                    refuse_pointer(ErrorKind::Corrupt, name, &located.bytes().await?)?;
                }
                return Err(damaged(name.into(), &error));
            }
        };
        let indices = check_columns(name, metadata.schema(), columns)?;
        let mut projected = indices.clone();
        projected.sort_unstable();
        projected.dedup();
        let order = indices.iter().filter_map(|index| projected.iter().position(|other| other == index)).collect();
        let projection = ProjectionMask::roots(metadata.parquet_schema(), projected);
        refuse_all_null(name, &metadata, indices[0], &columns.text)?;
        Ok(Self { located: located.clone(), metadata, projection, order })
    }

    pub(super) fn row_group_rows(&self) -> Vec<u64> {
        self.metadata.metadata().row_groups().iter().map(|group| group.num_rows().max(0) as u64).collect()
    }

    pub(super) async fn read(&self, unit: &Unit) -> Result<RecordBatch, CorpusError> {
        let place = || Place { file: self.located.name.clone(), spot: Spot::RowGroup(unit.row_group) };
        let selection = RowSelection::from(vec![
            RowSelector::skip(unit.first_row as usize),
            RowSelector::select(unit.rows as usize),
        ]);
        let read = async {
            let stream =
                ParquetRecordBatchStreamBuilder::new_with_metadata(Reader(self.located.clone()), self.metadata.clone())
                    .with_row_groups(vec![unit.row_group as usize])
                    .with_projection(self.projection.clone())
                    .with_row_selection(selection)
                    .with_batch_size(unit.rows as usize)
                    .build()?;
            let schema = stream.schema().clone();
            let batches: Vec<RecordBatch> = stream.try_collect().await?;
            let batch = match <[RecordBatch; 1]>::try_from(batches) {
                Ok([batch]) => batch,
                Err(batches) => concat_batches(&schema, &batches)?,
            };
            Ok(batch.project(&self.order)?)
        };
        let batch: RecordBatch = read.await.map_err(|error: ParquetError| damaged(place(), &error))?;
        if batch.num_rows() as u64 != unit.rows {
            let short = ParquetError::EOF(format!("{} of {} rows", batch.num_rows(), unit.rows));
            return Err(damaged(place(), &short));
        }
        Ok(batch)
    }
}

/// Where the footer's statistics show that there is not one text in the file.
fn refuse_all_null(
    name: &str,
    metadata: &ArrowReaderMetadata,
    column: usize,
    column_name: &str,
) -> Result<(), CorpusError> {
    if !is_text(metadata.schema().field(column).data_type()) {
        return Ok(());
    }
    let leaf = metadata
        .parquet_schema()
        .columns()
        .iter()
        .position(|leaf| leaf.path().parts().first().is_some_and(|part| part == column_name));
    let Some(leaf) = leaf else { return Ok(()) };
    let groups = metadata.metadata().row_groups();
    let rows: i64 = groups.iter().map(|group| group.num_rows()).sum();
    let nulls: Option<u64> =
        groups.iter().map(|group| group.column(leaf).statistics().and_then(|s| s.null_count_opt())).sum();
    if rows > 0 && nulls == Some(rows as u64) {
        return Err(CorpusError::new(
            ErrorKind::Empty,
            name,
            format!("column `{column_name}` is null in all {rows} rows"),
            "name the column that holds the text, or leave the file out",
        ));
    }
    Ok(())
}

fn damaged(place: Place, error: &ParquetError) -> CorpusError {
    if let ParquetError::External(inner) = error
        && let Some(error) = inner.downcast_ref::<object_store::Error>()
    {
        let mut found = store_error(&place.file, error);
        found.place = place;
        return found;
    }
    CorpusError::new(
        ErrorKind::Corrupt,
        place,
        format!("truncated or damaged Parquet: {error}"),
        "write the file again, or leave it out of `data.paths`",
    )
}

/// An object as the Parquet reader wants it.
struct Reader(Located);

impl AsyncFileReader for Reader {
    fn get_bytes(&mut self, range: Range<u64>) -> BoxFuture<'_, ParquetResult<Bytes>> {
        async move { Ok(self.0.store.get_range(&self.0.path, range).await?) }.boxed()
    }

    fn get_byte_ranges(&mut self, ranges: Vec<Range<u64>>) -> BoxFuture<'_, ParquetResult<Vec<Bytes>>> {
        async move { Ok(self.0.store.get_ranges(&self.0.path, &ranges).await?) }.boxed()
    }

    fn get_metadata<'a>(
        &'a mut self,
        options: Option<&'a ArrowReaderOptions>,
    ) -> BoxFuture<'a, ParquetResult<Arc<ParquetMetaData>>> {
        async move {
            let size = self.0.size;
            let reader = ParquetMetaDataReader::new().with_arrow_reader_options(options);
            Ok(Arc::new(reader.load_and_finish(self, size).await?))
        }
        .boxed()
    }
}
