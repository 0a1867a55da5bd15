package main

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"time"

	"google.golang.org/grpc"
)

// mark stands in the prepared record's value; the eight bytes after it become the time of sending.
var mark = []byte("takhin-bench-time")

// tail sends requests at the rate on one stream and reads their records on another: from the moment before the
// send to the moment after the record came out.
func (l *load) tail(ctx context.Context, conn *grpc.ClientConn, consumeMethod string, consume []byte) (*counts, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	records, err := conn.NewStream(ctx, &serverStream, consumeMethod)
	if err != nil {
		return nil, err
	}
	if err := records.SendMsg(consume); err != nil {
		return nil, err
	}
	if err := records.CloseSend(); err != nil {
		return nil, err
	}
	if _, err := records.Header(); err != nil { // from here on nothing is missed
		return nil, err
	}
	produce, err := conn.NewStream(ctx, &bidi, l.method)
	if err != nil {
		return nil, err
	}
	l.begun = time.Now()
	failed := make(chan error, 2)
	go func() {
		for time.Now().Before(l.until) {
			request := bytes.Clone(l.take())
			at := bytes.Index(request, mark)
			if at < 0 {
				failed <- errors.New("a request without a mark")
				return
			}
			binary.LittleEndian.PutUint64(request[at+len(mark):], uint64(time.Now().UnixNano()))
			if err := produce.SendMsg(request); err != nil {
				failed <- err
				return
			}
		}
		failed <- produce.CloseSend()
	}()
	answered := make(chan uint64, 1)
	go func() {
		var got answer
		var n uint64
		for {
			err := produce.RecvMsg(&got)
			if err == nil {
				if problem := text(got.data, l.errorField); problem != "" {
					err = fmt.Errorf("refused: %s", problem)
				}
			}
			if errors.Is(err, io.EOF) {
				answered <- n
				return
			}
			if err != nil {
				failed <- err
				cancel()
				return
			}
			n++
		}
	}()
	done := &counts{}
	got := answer{whole: true}
	var seen, expected uint64
	for expected == 0 || seen < expected {
		if err := records.RecvMsg(&got); err != nil {
			select {
			case cause := <-failed:
				return nil, errors.Join(err, cause)
			default:
				return nil, err
			}
		}
		now := time.Now()
		for rest := got.data; ; {
			at := bytes.Index(rest, mark)
			if at < 0 {
				break
			}
			rest = rest[at+len(mark):]
			seen++
			sentAt := time.Unix(0, int64(binary.LittleEndian.Uint64(rest)))
			if now.After(l.measure) {
				done.messages++
				done.latencies.add(now.Sub(sentAt))
				done.last = now
			}
		}
		done.bytesIn += uint64(got.size)
		select {
		case expected = <-answered:
		case err := <-failed:
			if err != nil {
				return nil, err
			}
		default:
			if now.After(l.until) && expected == 0 {
				expected = <-answered
			}
		}
	}
	return done, nil
}
