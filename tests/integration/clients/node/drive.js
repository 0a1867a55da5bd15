// Calls every method of TakhinService once or more and checks the answers.
//
// Usage: node drive.js ADDRESS TOPIC PROTO_ROOT. It prints the methods that it called, one a line.
"use strict";

const assert = require("node:assert/strict");
const path = require("node:path");
const grpc = require("@grpc/grpc-js");
const loader = require("@grpc/proto-loader");

const FIRST_TIMESTAMP = 1700000000000;
const [address, topic, protoRoot] = process.argv.slice(2);
const definition = loader.loadSync(path.join(protoRoot, "takhin/v1/takhin.proto"), {
  includeDirs: [protoRoot],
  longs: Number,
  defaults: true,
});
const { TakhinService } = grpc.loadPackageDefinition(definition).takhin.v1;
const client = new TakhinService(address, grpc.credentials.createInsecure());
const called = new Set();

const deadline = () => ({ deadline: Date.now() + 60000 });

function call(method, request) {
  called.add(method);
  return new Promise((resolve, reject) => {
    client[method](request, deadline(), (error, response) => (error ? reject(error) : resolve(response)));
  });
}

// Sends all requests, then gives all responses.
function exchange(method, requests) {
  called.add(method);
  return new Promise((resolve, reject) => {
    const responses = [];
    const stream = client[method](deadline());
    stream.on("data", (response) => responses.push(response));
    stream.on("error", reject);
    stream.on("end", () => resolve(responses));
    requests.forEach((request) => stream.write(request));
    stream.end();
  });
}

function consume(request) {
  called.add("ConsumeMessages");
  return new Promise((resolve, reject) => {
    const records = [];
    const stream = client.ConsumeMessages(request, deadline());
    stream.on("data", (response) => records.push(...response.records));
    stream.on("error", reject);
    stream.on("end", () => resolve(records));
  });
}

async function fails(promise, code) {
  await assert.rejects(promise, (error) => {
    assert.equal(error.code, code, error.message);
    assert.ok(error.metadata.get("grpc-status-details-bin").length === 1, "no status details");
    return true;
  });
}

const value = (n) => Buffer.from(`value-${n}`);
const records = (first, count) => Array.from({ length: count }, (_, n) => ({ value: value(first + n) }));

async function topics() {
  const info = await call("GetServerInfo", {});
  assert.equal(info.engine, "local");
  assert.equal((await call("HealthCheck", {})).status, "healthy");
  const request = { name: topic, numPartitions: 2, configs: { "retention.ms": "36000000000000" } };
  assert.equal((await call("CreateTopic", request)).success, true);
  await fails(call("CreateTopic", request), grpc.status.ALREADY_EXISTS);
  assert.ok((await call("ListTopics", {})).topics.includes(topic));
  const got = await call("GetTopic", { name: topic });
  assert.equal(got.topic.numPartitions, 2);
  assert.equal(Object.keys(got.topic.partitions).length, 2);
  assert.equal((await call("DescribeTopics", { topics: [topic] })).topics[0].name, topic);
}

async function produce() {
  const first = { key: Buffer.from("key-0"), value: value(0), timestamp: FIRST_TIMESTAMP };
  first.headers = [{ key: "language", value: Buffer.from("node") }];
  assert.equal((await call("ProduceMessage", { topic, record: first })).offset, 0);
  const messages = records(1, 10).map((record) => ({ topic, record }));
  const answers = await exchange("ProduceMessageStream", messages);
  assert.deepEqual(answers.map((answer) => answer.offset), [1, 2, 3, 4, 5, 6, 7, 8, 9, 10]);
  const batch = await call("ProduceBatch", { topic, records: records(11, 5), correlationId: 77 });
  assert.deepEqual([batch.baseOffset, batch.lastOffset, batch.correlationId], [11, 15, 77]);
  const requests = [0, 1, 2].map((n) => ({ topic, records: records(16 + 4 * n, 4), correlationId: n + 1 }));
  const batches = await exchange("ProduceBatchStream", requests);
  assert.deepEqual(batches.map((each) => [each.correlationId, each.baseOffset]), [[1, 16], [2, 20], [3, 24]]);
}

async function read() {
  const all = await consume({ topic, offset: -1, untilEnd: true });
  assert.deepEqual(all.map((record) => record.offset), Array.from({ length: 28 }, (_, n) => n));
  all.forEach((record, n) => assert.deepEqual(record.value, value(n)));
  assert.equal(all[0].key.toString(), "key-0");
  assert.equal(all[0].timestamp, FIRST_TIMESTAMP);
  assert.equal(all[0].headers[0].value.toString(), "node");
  const offsets = await call("GetPartitionOffsets", { topic });
  assert.deepEqual([offsets.beginningOffset, offsets.endOffset], [0, 28]);
  const queries = [-1, -2, FIRST_TIMESTAMP + 1].map((timestamp) => ({ topic, timestamp }));
  const listed = await call("ListOffsets", { queries });
  assert.deepEqual(listed.results.map((result) => result.offset), [0, 28, 1]);
}

async function groups() {
  const groupId = `${topic}-group`;
  assert.equal((await call("CommitOffset", { groupId, offsets: [{ topic, offset: 20 }] })).success, true);
  assert.equal((await call("FetchCommittedOffsets", { groupId })).offsets[0].offset, 20);
  assert.ok((await call("ListConsumerGroups", {})).groups.some((group) => group.groupId === groupId));
  const described = await call("DescribeConsumerGroup", { groupId });
  assert.equal(described.state, "Empty");
  assert.equal(described.offsets[0].lag, 8);
  assert.equal((await call("DeleteConsumerGroup", { groupId })).success, true);
  await fails(call("DescribeConsumerGroup", { groupId }), grpc.status.NOT_FOUND);
}

async function administration() {
  const { producerId, producerEpoch } = await call("InitProducerId", {});
  const request = { topic, records: records(28, 2), producerId, producerEpoch };
  assert.equal((await call("ProduceBatch", request)).baseOffset, 28);
  assert.equal((await call("ProduceBatch", request)).baseOffset, 28);
  assert.equal((await call("GetPartitionOffsets", { topic })).endOffset, 30);
  assert.equal((await call("CreatePartitions", { topic, numPartitions: 3 })).numPartitions, 3);
  await call("AlterTopicConfigs", { topic, set: { "max.message.bytes": "2000000" } });
  const { configs } = await call("DescribeTopicConfigs", { topic });
  const config = configs.find((each) => each.name === "max.message.bytes");
  assert.deepEqual([config.value, config.source], ["2000000", "topic"]);
  const cut = await call("DeleteRecords", { offsets: [{ topic, offset: 5 }] });
  assert.equal(cut.logStartOffsets[0].offset, 5);
  await fails(consume({ topic, offset: 0 }), grpc.status.OUT_OF_RANGE);
  assert.equal((await call("DeleteTopic", { name: topic })).success, true);
  await fails(call("GetTopic", { name: topic }), grpc.status.NOT_FOUND);
}

async function main() {
  await topics();
  await produce();
  await read();
  await groups();
  await administration();
  client.close();
  [...called].sort().forEach((method) => console.log(method));
}

main().catch((error) => {
  console.error(error);
  process.exit(1);
});
