// Command drive calls every method of TakhinService once or more and checks the answers.
//
// Usage: drive ADDRESS TOPIC. It prints the methods that it called, one a line.
package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"path"
	"sort"
	"sync"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	pb "takhin.test/drive/gen/takhin/v1"
)

const firstTimestamp = 1_700_000_000_000

// calls remembers which methods were called.
type calls struct {
	mu    sync.Mutex
	names map[string]bool
}

func (c *calls) add(method string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.names[path.Base(method)] = true
}

func (c *calls) unary(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoke grpc.UnaryInvoker, opts ...grpc.CallOption) error {
	c.add(method)
	return invoke(ctx, method, req, reply, cc, opts...)
}

func (c *calls) stream(ctx context.Context, desc *grpc.StreamDesc, cc *grpc.ClientConn, method string, open grpc.Streamer, opts ...grpc.CallOption) (grpc.ClientStream, error) {
	c.add(method)
	return open(ctx, desc, cc, method, opts...)
}

func main() {
	if len(os.Args) != 3 {
		fmt.Fprintln(os.Stderr, "usage: drive ADDRESS TOPIC")
		os.Exit(2)
	}
	called := &calls{names: map[string]bool{}}
	connection, err := grpc.NewClient(os.Args[1],
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithUnaryInterceptor(called.unary),
		grpc.WithStreamInterceptor(called.stream))
	must(err)
	defer connection.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 60*time.Second)
	defer cancel()
	client := pb.NewTakhinServiceClient(connection)
	server(ctx, client)
	topics(ctx, client, os.Args[2])
	end := produce(ctx, client, os.Args[2])
	consume(ctx, client, os.Args[2], end)
	offsets(ctx, client, os.Args[2], end)
	groups(ctx, client, os.Args[2], end)
	idempotent(ctx, client, os.Args[2], end)
	administration(ctx, client, os.Args[2])
	var names []string
	for name := range called.names {
		names = append(names, name)
	}
	sort.Strings(names)
	for _, name := range names {
		fmt.Println(name)
	}
}

func server(ctx context.Context, client pb.TakhinServiceClient) {
	info, err := client.GetServerInfo(ctx, &pb.GetServerInfoRequest{})
	must(err)
	check(info.Version != "" && info.Engine == "local" && len(info.Methods) > 0, "server info", info)
	health, err := client.HealthCheck(ctx, &pb.HealthCheckRequest{})
	must(err)
	check(health.Status == "healthy" && health.Version == info.Version, "health", health)
}

func topics(ctx context.Context, client pb.TakhinServiceClient, topic string) {
	request := &pb.CreateTopicRequest{Name: topic, NumPartitions: 2, Configs: map[string]string{"retention.ms": "36000000000000"}}
	created, err := client.CreateTopic(ctx, request)
	must(err)
	check(created.Success && created.Error == "", "create topic", created)
	_, err = client.CreateTopic(ctx, request)
	mustFail(err, codes.AlreadyExists, "TOPIC_ALREADY_EXISTS")
	list, err := client.ListTopics(ctx, &pb.ListTopicsRequest{})
	must(err)
	check(contains(list.Topics, topic), "list topics", list)
	got, err := client.GetTopic(ctx, &pb.GetTopicRequest{Name: topic})
	must(err)
	check(got.Topic.NumPartitions == 2 && len(got.Topic.Partitions) == 2 && got.Topic.Partitions[1].PartitionId == 1, "get topic", got)
	described, err := client.DescribeTopics(ctx, &pb.DescribeTopicsRequest{Topics: []string{topic}})
	must(err)
	check(len(described.Topics) == 1 && described.Topics[0].Name == topic, "describe topics", described)
}

// produce gives the number of records that are then in partition 0.
func produce(ctx context.Context, client pb.TakhinServiceClient, topic string) int64 {
	one, err := client.ProduceMessage(ctx, &pb.ProduceMessageRequest{Topic: topic, Record: &pb.Record{
		Key: []byte("key-0"), Value: []byte("value-0"), Timestamp: firstTimestamp,
		Headers: []*pb.RecordHeader{{Key: "language", Value: []byte("go")}},
	}})
	must(err)
	check(one.Offset == 0 && one.Partition == 0 && one.Timestamp == firstTimestamp, "produce", one)
	messages, err := client.ProduceMessageStream(ctx)
	must(err)
	for n := int64(1); n <= 10; n++ {
		must(messages.Send(&pb.ProduceMessageRequest{Topic: topic, Record: &pb.Record{Value: value(n)}}))
	}
	must(messages.CloseSend())
	for n := int64(1); n <= 10; n++ {
		answer, err := messages.Recv()
		must(err)
		check(answer.Offset == n && answer.Error == "", "produce stream", answer)
	}
	_, err = messages.Recv()
	check(err == io.EOF, "end of produce stream", err)
	batch, err := client.ProduceBatch(ctx, &pb.ProduceBatchRequest{Topic: topic, Records: records(11, 5), CorrelationId: 77})
	must(err)
	check(batch.BaseOffset == 11 && batch.LastOffset == 15 && batch.CorrelationId == 77, "produce batch", batch)
	batches, err := client.ProduceBatchStream(ctx)
	must(err)
	for n := int64(0); n < 3; n++ {
		must(batches.Send(&pb.ProduceBatchRequest{Topic: topic, Records: records(16+4*n, 4), CorrelationId: n + 1}))
	}
	must(batches.CloseSend())
	for n := int64(0); n < 3; n++ {
		answer, err := batches.Recv()
		must(err)
		check(answer.BaseOffset == 16+4*n && answer.LastOffset == 19+4*n && answer.CorrelationId == n+1, "produce batch stream", answer)
	}
	return 28
}

func consume(ctx context.Context, client pb.TakhinServiceClient, topic string, end int64) {
	stream, err := client.ConsumeMessages(ctx, &pb.ConsumeMessagesRequest{Topic: topic, Offset: -1, UntilEnd: true})
	must(err)
	next := int64(0)
	for {
		response, err := stream.Recv()
		if err == io.EOF {
			break
		}
		must(err)
		for _, record := range response.Records {
			check(record.Offset == next && string(record.Value) == string(value(next)), "record", record)
			if next == 0 {
				check(string(record.Key) == "key-0" && record.Timestamp == firstTimestamp, "first record", record)
				check(len(record.Headers) == 1 && string(record.Headers[0].Value) == "go", "header", record)
			} else {
				check(record.Key == nil, "null key", record)
			}
			next++
		}
	}
	check(next == end, "records consumed", next)
}

func offsets(ctx context.Context, client pb.TakhinServiceClient, topic string, end int64) {
	got, err := client.GetPartitionOffsets(ctx, &pb.GetPartitionOffsetsRequest{Topic: topic})
	must(err)
	check(got.BeginningOffset == 0 && got.EndOffset == end, "partition offsets", got)
	listed, err := client.ListOffsets(ctx, &pb.ListOffsetsRequest{Queries: []*pb.ListOffsetsRequest_Query{
		{Topic: topic, Timestamp: -1}, {Topic: topic, Timestamp: -2}, {Topic: topic, Timestamp: firstTimestamp + 1},
	}})
	must(err)
	check(len(listed.Results) == 3 && listed.Results[0].Offset == 0 && listed.Results[1].Offset == end && listed.Results[2].Offset == 1, "list offsets", listed)
}

func groups(ctx context.Context, client pb.TakhinServiceClient, topic string, end int64) {
	group := topic + "-group"
	committed, err := client.CommitOffset(ctx, &pb.CommitOffsetRequest{GroupId: group, Offsets: []*pb.TopicPartitionOffset{{Topic: topic, Offset: end - 8}}})
	must(err)
	check(committed.Success, "commit", committed)
	fetched, err := client.FetchCommittedOffsets(ctx, &pb.FetchCommittedOffsetsRequest{GroupId: group})
	must(err)
	check(len(fetched.Offsets) == 1 && fetched.Offsets[0].Offset == end-8, "committed offsets", fetched)
	list, err := client.ListConsumerGroups(ctx, &pb.ListConsumerGroupsRequest{})
	must(err)
	found := false
	for _, info := range list.Groups {
		found = found || info.GroupId == group
	}
	check(found, "list groups", list)
	described, err := client.DescribeConsumerGroup(ctx, &pb.DescribeConsumerGroupRequest{GroupId: group})
	must(err)
	check(described.State == "Empty" && len(described.Offsets) == 1 && described.Offsets[0].Lag == 8, "describe group", described)
	deleted, err := client.DeleteConsumerGroup(ctx, &pb.DeleteConsumerGroupRequest{GroupId: group})
	must(err)
	check(deleted.Success, "delete group", deleted)
	_, err = client.DescribeConsumerGroup(ctx, &pb.DescribeConsumerGroupRequest{GroupId: group})
	mustFail(err, codes.NotFound, "GROUP_NOT_FOUND")
}

func idempotent(ctx context.Context, client pb.TakhinServiceClient, topic string, end int64) {
	producer, err := client.InitProducerId(ctx, &pb.InitProducerIdRequest{})
	must(err)
	request := &pb.ProduceBatchRequest{Topic: topic, Records: records(end, 2), ProducerId: producer.ProducerId, ProducerEpoch: producer.ProducerEpoch}
	for range 2 {
		answer, err := client.ProduceBatch(ctx, request)
		must(err)
		check(answer.BaseOffset == end && answer.LastOffset == end+1, "idempotent produce", answer)
	}
	got, err := client.GetPartitionOffsets(ctx, &pb.GetPartitionOffsetsRequest{Topic: topic})
	must(err)
	check(got.EndOffset == end+2, "end offset after a repeat", got)
}

func administration(ctx context.Context, client pb.TakhinServiceClient, topic string) {
	grown, err := client.CreatePartitions(ctx, &pb.CreatePartitionsRequest{Topic: topic, NumPartitions: 3})
	must(err)
	check(grown.NumPartitions == 3, "create partitions", grown)
	_, err = client.AlterTopicConfigs(ctx, &pb.AlterTopicConfigsRequest{Topic: topic, Set: map[string]string{"max.message.bytes": "2000000"}})
	must(err)
	configs, err := client.DescribeTopicConfigs(ctx, &pb.DescribeTopicConfigsRequest{Topic: topic})
	must(err)
	found := false
	for _, config := range configs.Configs {
		found = found || config.Name == "max.message.bytes" && config.Value == "2000000" && config.Source == "topic"
	}
	check(found, "topic configs", configs)
	cut, err := client.DeleteRecords(ctx, &pb.DeleteRecordsRequest{Offsets: []*pb.TopicPartitionOffset{{Topic: topic, Offset: 5}}})
	must(err)
	check(len(cut.LogStartOffsets) == 1 && cut.LogStartOffsets[0].Offset == 5, "delete records", cut)
	stream, err := client.ConsumeMessages(ctx, &pb.ConsumeMessagesRequest{Topic: topic, Offset: 0})
	must(err)
	_, err = stream.Recv()
	mustFail(err, codes.OutOfRange, "OFFSET_OUT_OF_RANGE")
	deleted, err := client.DeleteTopic(ctx, &pb.DeleteTopicRequest{Name: topic})
	must(err)
	check(deleted.Success, "delete topic", deleted)
	_, err = client.GetTopic(ctx, &pb.GetTopicRequest{Name: topic})
	mustFail(err, codes.NotFound, "TOPIC_NOT_FOUND")
}

func records(first, count int64) []*pb.Record {
	var all []*pb.Record
	for n := first; n < first+count; n++ {
		all = append(all, &pb.Record{Value: value(n)})
	}
	return all
}

func value(n int64) []byte { return fmt.Appendf(nil, "value-%d", n) }

func contains(all []string, one string) bool {
	for _, each := range all {
		if each == one {
			return true
		}
	}
	return false
}

func must(err error) {
	if err != nil {
		panic(err)
	}
}

func mustFail(err error, code codes.Code, reason string) {
	state := status.Convert(err)
	check(state.Code() == code, "status code", err)
	for _, detail := range state.Details() {
		if info, ok := detail.(*errdetails.ErrorInfo); ok && info.Reason == reason && info.Domain == "takhin" {
			return
		}
	}
	panic(fmt.Sprintf("no ErrorInfo %s in %v", reason, state.Details()))
}

func check(ok bool, what string, got any) {
	if !ok {
		panic(fmt.Sprintf("%s: %v", what, got))
	}
}
