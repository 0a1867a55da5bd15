package takhin.it;

import com.google.protobuf.Any;
import com.google.protobuf.ByteString;
import com.google.rpc.ErrorInfo;
import com.google.rpc.Status;
import io.grpc.CallOptions;
import io.grpc.Channel;
import io.grpc.ClientCall;
import io.grpc.ClientInterceptor;
import io.grpc.ManagedChannel;
import io.grpc.ManagedChannelBuilder;
import io.grpc.MethodDescriptor;
import io.grpc.Status.Code;
import io.grpc.StatusRuntimeException;
import io.grpc.protobuf.StatusProto;
import io.grpc.stub.StreamObserver;
import java.util.ArrayList;
import java.util.Iterator;
import java.util.List;
import java.util.Set;
import java.util.concurrent.BlockingQueue;
import java.util.concurrent.ConcurrentSkipListSet;
import java.util.concurrent.LinkedBlockingQueue;
import java.util.concurrent.TimeUnit;
import takhin.v1.Takhin.*;
import takhin.v1.Takhin.Record;
import takhin.v1.TakhinServiceGrpc;

/**
 * Calls every method of TakhinService once or more and checks the answers.
 *
 * <p>Arguments: address, topic. It prints the methods that it called, one a line.
 */
public final class Drive {
  private static final long FIRST_TIMESTAMP = 1_700_000_000_000L;

  private final TakhinServiceGrpc.TakhinServiceBlockingStub service;
  private final TakhinServiceGrpc.TakhinServiceStub async;
  private final String topic;

  private Drive(Channel channel, String topic) {
    this.service = TakhinServiceGrpc.newBlockingStub(channel);
    this.async = TakhinServiceGrpc.newStub(channel);
    this.topic = topic;
  }

  public static void main(String[] args) throws Exception {
    Set<String> called = new ConcurrentSkipListSet<>();
    ManagedChannel channel =
        ManagedChannelBuilder.forTarget(args[0]).usePlaintext().intercept(recordInto(called)).build();
    try {
      Drive drive = new Drive(channel, args[1]);
      drive.server();
      drive.topics();
      drive.produce();
      drive.consume();
      drive.offsets();
      drive.groups();
      drive.idempotent();
      drive.administration();
    } finally {
      channel.shutdownNow().awaitTermination(5, TimeUnit.SECONDS);
    }
    called.forEach(System.out::println);
  }

  private static ClientInterceptor recordInto(Set<String> called) {
    return new ClientInterceptor() {
      @Override
      public <Q, R> ClientCall<Q, R> interceptCall(MethodDescriptor<Q, R> method, CallOptions options, Channel next) {
        called.add(method.getBareMethodName());
        return next.newCall(method, options.withDeadlineAfter(60, TimeUnit.SECONDS));
      }
    };
  }

  private void server() {
    GetServerInfoResponse info = service.getServerInfo(GetServerInfoRequest.getDefaultInstance());
    check(info.getEngine().equals("local") && info.getMethodsCount() > 0, info);
    HealthCheckResponse health = service.healthCheck(HealthCheckRequest.getDefaultInstance());
    check(health.getStatus().equals("healthy") && health.getVersion().equals(info.getVersion()), health);
  }

  private void topics() {
    CreateTopicRequest request =
        CreateTopicRequest.newBuilder()
            .setName(topic)
            .setNumPartitions(2)
            .putConfigs("retention.ms", "36000000000000")
            .build();
    check(service.createTopic(request).getSuccess(), "create topic");
    fails(() -> service.createTopic(request), Code.ALREADY_EXISTS, "TOPIC_ALREADY_EXISTS");
    check(service.listTopics(ListTopicsRequest.getDefaultInstance()).getTopicsList().contains(topic), "list topics");
    TopicInfo info = service.getTopic(GetTopicRequest.newBuilder().setName(topic).build()).getTopic();
    check(info.getNumPartitions() == 2 && info.getPartitionsMap().get(1).getPartitionId() == 1, info);
    DescribeTopicsResponse described =
        service.describeTopics(DescribeTopicsRequest.newBuilder().addTopics(topic).build());
    check(described.getTopics(0).getName().equals(topic), described);
  }

  private void produce() throws InterruptedException {
    Record first =
        Record.newBuilder()
            .setKey(ByteString.copyFromUtf8("key-0"))
            .setValue(value(0))
            .setTimestamp(FIRST_TIMESTAMP)
            .addHeaders(RecordHeader.newBuilder().setKey("language").setValue(ByteString.copyFromUtf8("java")))
            .build();
    check(service.produceMessage(message(first)).getOffset() == 0, "produce");

    Answers<ProduceMessageResponse> answers = new Answers<>();
    StreamObserver<ProduceMessageRequest> messages = async.produceMessageStream(answers);
    for (int n = 1; n <= 10; n++) {
      messages.onNext(message(Record.newBuilder().setValue(value(n)).build()));
    }
    messages.onCompleted();
    for (int n = 1; n <= 10; n++) {
      check(answers.take().getOffset() == n, "produce stream");
    }

    ProduceBatchResponse batch = service.produceBatch(batch(11, 5).setCorrelationId(77).build());
    check(batch.getBaseOffset() == 11 && batch.getLastOffset() == 15 && batch.getCorrelationId() == 77, batch);

    Answers<ProduceBatchResponse> batchAnswers = new Answers<>();
    StreamObserver<ProduceBatchRequest> batches = async.produceBatchStream(batchAnswers);
    for (int n = 0; n < 3; n++) {
      batches.onNext(batch(16 + 4 * n, 4).setCorrelationId(n + 1).build());
    }
    batches.onCompleted();
    for (int n = 0; n < 3; n++) {
      ProduceBatchResponse answer = batchAnswers.take();
      check(answer.getBaseOffset() == 16 + 4 * n && answer.getCorrelationId() == n + 1, answer);
    }
  }

  private void consume() {
    Iterator<ConsumeMessagesResponse> responses =
        service.consumeMessages(
            ConsumeMessagesRequest.newBuilder().setTopic(topic).setOffset(-1).setUntilEnd(true).build());
    List<Record> records = new ArrayList<>();
    responses.forEachRemaining(response -> records.addAll(response.getRecordsList()));
    check(records.size() == 28, records.size());
    for (int n = 0; n < records.size(); n++) {
      check(records.get(n).getOffset() == n && records.get(n).getValue().equals(value(n)), records.get(n));
      check(records.get(n).hasKey() == (n == 0), records.get(n));
    }
    check(records.get(0).getTimestamp() == FIRST_TIMESTAMP, records.get(0));
    check(records.get(0).getHeaders(0).getValue().toStringUtf8().equals("java"), records.get(0));
  }

  private void offsets() {
    GetPartitionOffsetsResponse got = partitionOffsets();
    check(got.getBeginningOffset() == 0 && got.getEndOffset() == 28, got);
    ListOffsetsRequest.Builder request = ListOffsetsRequest.newBuilder();
    for (long timestamp : new long[] {-1, -2, FIRST_TIMESTAMP + 1}) {
      request.addQueries(ListOffsetsRequest.Query.newBuilder().setTopic(topic).setTimestamp(timestamp));
    }
    ListOffsetsResponse listed = service.listOffsets(request.build());
    check(listed.getResults(0).getOffset() == 0, listed);
    check(listed.getResults(1).getOffset() == 28 && listed.getResults(2).getOffset() == 1, listed);
  }

  private void groups() {
    String group = topic + "-group";
    CommitOffsetRequest commit =
        CommitOffsetRequest.newBuilder().setGroupId(group).addOffsets(place(20)).build();
    check(service.commitOffset(commit).getSuccess(), "commit");
    FetchCommittedOffsetsResponse fetched =
        service.fetchCommittedOffsets(FetchCommittedOffsetsRequest.newBuilder().setGroupId(group).build());
    check(fetched.getOffsetsCount() == 1 && fetched.getOffsets(0).getOffset() == 20, fetched);
    check(
        service.listConsumerGroups(ListConsumerGroupsRequest.getDefaultInstance()).getGroupsList().stream()
            .anyMatch(each -> each.getGroupId().equals(group)),
        "list groups");
    DescribeConsumerGroupRequest describe = DescribeConsumerGroupRequest.newBuilder().setGroupId(group).build();
    DescribeConsumerGroupResponse described = service.describeConsumerGroup(describe);
    check(described.getState().equals("Empty") && described.getOffsets(0).getLag() == 8, described);
    DeleteConsumerGroupRequest delete = DeleteConsumerGroupRequest.newBuilder().setGroupId(group).build();
    check(service.deleteConsumerGroup(delete).getSuccess(), "delete group");
    fails(() -> service.describeConsumerGroup(describe), Code.NOT_FOUND, "GROUP_NOT_FOUND");
  }

  private void idempotent() {
    InitProducerIdResponse producer = service.initProducerId(InitProducerIdRequest.getDefaultInstance());
    ProduceBatchRequest request =
        batch(28, 2).setProducerId(producer.getProducerId()).setProducerEpoch(producer.getProducerEpoch()).build();
    check(service.produceBatch(request).getBaseOffset() == 28, "idempotent produce");
    check(service.produceBatch(request).getBaseOffset() == 28, "repeated produce");
    check(partitionOffsets().getEndOffset() == 30, "end offset after a repeat");
  }

  private void administration() {
    CreatePartitionsRequest grow =
        CreatePartitionsRequest.newBuilder().setTopic(topic).setNumPartitions(3).build();
    check(service.createPartitions(grow).getNumPartitions() == 3, "create partitions");
    service.alterTopicConfigs(
        AlterTopicConfigsRequest.newBuilder().setTopic(topic).putSet("max.message.bytes", "2000000").build());
    DescribeTopicConfigsResponse configs =
        service.describeTopicConfigs(DescribeTopicConfigsRequest.newBuilder().setTopic(topic).build());
    check(
        configs.getConfigsList().stream()
            .anyMatch(each -> each.getName().equals("max.message.bytes") && each.getValue().equals("2000000")),
        configs);
    DeleteRecordsResponse cut =
        service.deleteRecords(DeleteRecordsRequest.newBuilder().addOffsets(place(5)).build());
    check(cut.getLogStartOffsets(0).getOffset() == 5, cut);
    ConsumeMessagesRequest below = ConsumeMessagesRequest.newBuilder().setTopic(topic).setOffset(0).build();
    fails(() -> service.consumeMessages(below).next(), Code.OUT_OF_RANGE, "OFFSET_OUT_OF_RANGE");
    check(service.deleteTopic(DeleteTopicRequest.newBuilder().setName(topic).build()).getSuccess(), "delete topic");
    GetTopicRequest get = GetTopicRequest.newBuilder().setName(topic).build();
    fails(() -> service.getTopic(get), Code.NOT_FOUND, "TOPIC_NOT_FOUND");
  }

  private GetPartitionOffsetsResponse partitionOffsets() {
    return service.getPartitionOffsets(GetPartitionOffsetsRequest.newBuilder().setTopic(topic).build());
  }

  private TopicPartitionOffset place(long offset) {
    return TopicPartitionOffset.newBuilder().setTopic(topic).setOffset(offset).build();
  }

  private ProduceMessageRequest message(Record record) {
    return ProduceMessageRequest.newBuilder().setTopic(topic).setRecord(record).build();
  }

  private ProduceBatchRequest.Builder batch(int first, int count) {
    ProduceBatchRequest.Builder builder = ProduceBatchRequest.newBuilder().setTopic(topic);
    for (int n = first; n < first + count; n++) {
      builder.addRecords(Record.newBuilder().setValue(value(n)));
    }
    return builder;
  }

  private static ByteString value(int n) {
    return ByteString.copyFromUtf8("value-" + n);
  }

  private static void fails(Runnable call, Code code, String reason) {
    try {
      call.run();
    } catch (StatusRuntimeException error) {
      check(error.getStatus().getCode() == code, error);
      Status status = StatusProto.fromThrowable(error);
      for (Any detail : status.getDetailsList()) {
        try {
          if (detail.is(ErrorInfo.class) && detail.unpack(ErrorInfo.class).getReason().equals(reason)) {
            return;
          }
        } catch (com.google.protobuf.InvalidProtocolBufferException broken) {
          throw new AssertionError(broken);
        }
      }
      throw new AssertionError("no ErrorInfo " + reason + " in " + status);
    }
    throw new AssertionError("no failure with " + code);
  }

  private static void check(boolean ok, Object got) {
    if (!ok) {
      throw new AssertionError(got.toString());
    }
  }

  /** The answers of a stream, in order. */
  private static final class Answers<T> implements StreamObserver<T> {
    private final BlockingQueue<Object> queue = new LinkedBlockingQueue<>();

    @Override
    public void onNext(T answer) {
      queue.add(answer);
    }

    @Override
    public void onError(Throwable error) {
      queue.add(error);
    }

    @Override
    public void onCompleted() {}

    @SuppressWarnings("unchecked")
    T take() throws InterruptedException {
      Object next = queue.poll(60, TimeUnit.SECONDS);
      if (next == null || next instanceof Throwable) {
        throw new AssertionError("no answer", (Throwable) next);
      }
      return (T) next;
    }
  }
}
