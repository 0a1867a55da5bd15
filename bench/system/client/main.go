// Command client loads a gRPC server with prepared messages and prints what came of it as one JSON object.
//
// It knows nothing of the service but the names of methods and, to tell refusals, the number of the field
// that holds an answer's error.
package main

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"log"
	"os"
	"sync"
	"syscall"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
)

const (
	maxMessage  = 64 << 20
	windowBytes = 8 << 20
)

// prepared reads a file of messages, each after its length (4 bytes, big endian).
func prepared(path string) ([][]byte, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	var messages [][]byte
	for len(data) >= 4 {
		size := int(binary.BigEndian.Uint32(data))
		if len(data) < 4+size {
			break
		}
		messages = append(messages, data[4:4+size])
		data = data[4+size:]
	}
	if len(data) > 0 || len(messages) == 0 {
		return nil, fmt.Errorf("%s: not a file of messages", path)
	}
	return messages, nil
}

func main() {
	log.SetFlags(0)
	mode := flag.String("mode", "stream", "stream (bidi), unary, consume, tail or echo (a server)")
	addr := flag.String("addr", "", "host:port of the server")
	method := flag.String("method", "", "full name of the method")
	messages := flag.String("messages", "", "file of prepared requests (echo: answers)")
	second := flag.String("consume-request", "", "tail: file with the request of the consumer")
	secondMethod := flag.String("consume-method", "", "tail: the consumer's method")
	streams := flag.Int("streams", 1, "streams at once")
	connections := flag.Int("connections", 1, "connections, which the streams share")
	window := flag.Int("window", 16, "requests under way on each stream; unary: calls at once")
	seconds := flag.Float64("seconds", 3, "how long is measured")
	warmup := flag.Float64("warmup", 0.5, "seconds before that")
	rate := flag.Float64("rate", 0, "requests a second of all streams; 0: no limit")
	errorField := flag.Uint64("error-field", 0, "number of the answer's error field; 0: not looked at")
	flag.Parse()
	requests, err := prepared(*messages)
	if err != nil {
		log.Fatal(err)
	}
	if *mode == "echo" {
		log.Fatal(echo(*addr, requests))
	}
	begun := time.Now()
	run := &load{
		method: *method, requests: requests, window: *window, errorField: *errorField, rate: *rate, begun: begun,
		measure: begun.Add(time.Duration(*warmup * float64(time.Second))),
		until:   begun.Add(time.Duration((*warmup + *seconds) * float64(time.Second))),
	}
	var conns []*grpc.ClientConn
	for range *connections {
		conn, err := grpc.NewClient("passthrough:///"+*addr, grpc.WithTransportCredentials(insecure.NewCredentials()),
			grpc.WithDefaultCallOptions(grpc.ForceCodecV2(raw{}), grpc.MaxCallRecvMsgSize(maxMessage)),
			grpc.WithInitialWindowSize(windowBytes), grpc.WithInitialConnWindowSize(windowBytes),
			grpc.WithReadBufferSize(128<<10), grpc.WithWriteBufferSize(128<<10))
		if err != nil {
			log.Fatal(err)
		}
		conns = append(conns, conn)
	}
	ctx, cancel := context.WithDeadline(context.Background(), run.until.Add(30*time.Second))
	defer cancel()
	one := map[string]func(context.Context, *grpc.ClientConn) (*counts, error){
		"stream": run.stream, "unary": run.unary, "consume": run.consume,
		"tail": func(ctx context.Context, conn *grpc.ClientConn) (*counts, error) {
			request, err := prepared(*second)
			if err != nil {
				return nil, err
			}
			return run.tail(ctx, conn, *secondMethod, request[0])
		},
	}[*mode]
	if one == nil {
		log.Fatalf("no mode %q", *mode)
	}
	total := &counts{}
	var lock sync.Mutex
	var group sync.WaitGroup
	var failure error
	for n := range *streams {
		group.Add(1)
		go func() {
			defer group.Done()
			done, err := one(ctx, conns[n%len(conns)])
			lock.Lock()
			defer lock.Unlock()
			if err != nil {
				failure = errors.Join(failure, err)
				return
			}
			total.add(done)
		}()
	}
	group.Wait()
	if failure != nil {
		log.Fatal(failure)
	}
	var usage syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &usage)
	measured := total.last.Sub(run.measure).Seconds()
	result := map[string]any{
		"messages": total.messages, "bytes_out": total.bytesOut, "bytes_in": total.bytesIn, "seconds": measured,
		"messages_per_second": float64(total.messages) / measured,
		"latency_us":          total.latencies.report(),
		"client_cpu_seconds":  cpu(usage.Utime) + cpu(usage.Stime),
		"wall_seconds":        time.Since(begun).Seconds(),
	}
	if err := json.NewEncoder(os.Stdout).Encode(result); err != nil {
		log.Fatal(err)
	}
}

func cpu(t syscall.Timeval) float64 { return float64(t.Sec) + float64(t.Usec)/1e6 }
