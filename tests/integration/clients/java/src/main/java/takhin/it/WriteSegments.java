package takhin.it;

import java.io.File;
import java.nio.ByteBuffer;
import java.nio.charset.StandardCharsets;
import org.apache.kafka.common.compress.Compression;
import org.apache.kafka.common.header.Header;
import org.apache.kafka.common.header.internals.RecordHeader;
import org.apache.kafka.common.record.FileRecords;
import org.apache.kafka.common.record.MemoryRecords;
import org.apache.kafka.common.record.MemoryRecordsBuilder;
import org.apache.kafka.common.record.RecordBatch;
import org.apache.kafka.common.record.TimestampType;

/**
 * Writes the segments of one partition with Kafka's own library, as a broker would.
 *
 * <p>Arguments: directory, segments, batches a segment, records a batch. Record n has timestamp
 * 1700000000000 + n, the key "key-n" (null when n is a multiple of 5), the value "value-n" (null when
 * n is a multiple of 7) and, when n is a multiple of 3, a header "n" with the value n.
 */
public final class WriteSegments {
  private WriteSegments() {}

  public static void main(String[] args) throws Exception {
    File directory = new File(args[0]);
    int segments = Integer.parseInt(args[1]);
    int batches = Integer.parseInt(args[2]);
    int records = Integer.parseInt(args[3]);
    long offset = 0;
    for (int segment = 0; segment < segments; segment++) {
      File file = new File(directory, String.format("%020d.log", offset));
      try (FileRecords log = FileRecords.open(file)) {
        for (int batch = 0; batch < batches; batch++) {
          log.append(batch(offset, records));
          offset += records;
        }
        log.flush();
      }
    }
    System.out.println(offset);
  }

  private static MemoryRecords batch(long baseOffset, int records) {
    MemoryRecordsBuilder builder =
        MemoryRecords.builder(
            ByteBuffer.allocate(1024),
            RecordBatch.MAGIC_VALUE_V2,
            Compression.NONE,
            TimestampType.CREATE_TIME,
            baseOffset);
    for (long n = baseOffset; n < baseOffset + records; n++) {
      byte[] key = n % 5 == 0 ? null : bytes("key-" + n);
      byte[] value = n % 7 == 0 ? null : bytes("value-" + n);
      Header[] headers =
          n % 3 == 0 ? new Header[] {new RecordHeader("n", bytes(Long.toString(n)))} : new Header[0];
      builder.append(1_700_000_000_000L + n, key, value, headers);
    }
    return builder.build();
  }

  private static byte[] bytes(String text) {
    return text.getBytes(StandardCharsets.UTF_8);
  }
}
