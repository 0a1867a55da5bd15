package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
)

// load is one run: the same prepared requests, in turn, until the time is up.
type load struct {
	method     string
	requests   [][]byte
	window     int           // requests under way on each stream; calls at once for unary
	errorField uint64        // of an answer: must be empty
	rate       float64       // requests a second of all streams; 0: no limit
	next       atomic.Uint64 // counts the requests that were begun
	begun      time.Time
	until      time.Time
	measure    time.Time // what is answered before it is warming up, and not counted
}

// counts is what one stream has done since load.measure.
type counts struct {
	messages  uint64
	bytesOut  uint64
	bytesIn   uint64
	latencies histogram
	last      time.Time
}

func (l *load) take() []byte {
	n := l.next.Add(1) - 1
	if l.rate > 0 {
		time.Sleep(time.Until(l.begun.Add(time.Duration(float64(n) / l.rate * float64(time.Second)))))
	}
	return l.requests[n%uint64(len(l.requests))]
}

type sent struct {
	at   time.Time
	size int
}

var bidi = grpc.StreamDesc{ClientStreams: true, ServerStreams: true}

// stream keeps window requests under way and reads answers, which come in order.
func (l *load) stream(ctx context.Context, conn *grpc.ClientConn) (*counts, error) {
	call, err := conn.NewStream(ctx, &bidi, l.method)
	if err != nil {
		return nil, err
	}
	under := make(chan sent, l.window)
	failed := make(chan error, 1)
	go func() {
		defer close(under)
		for time.Now().Before(l.until) {
			request := l.take()
			under <- sent{time.Now(), len(request)} // waits while the window is full
			if err := call.SendMsg(request); err != nil {
				failed <- err
				return
			}
		}
		failed <- call.CloseSend()
	}()
	done := &counts{}
	var got answer
	for {
		err := call.RecvMsg(&got)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, err
		}
		if err := l.count(done, <-under, &got); err != nil {
			return nil, err
		}
	}
	if err := <-failed; err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	if _, more := <-under; more {
		return nil, errors.New("the stream ended before all its answers")
	}
	return done, nil
}

func (l *load) count(done *counts, request sent, got *answer) error {
	if l.errorField > 0 {
		if problem := text(got.data, l.errorField); problem != "" {
			return fmt.Errorf("refused: %s", problem)
		}
	}
	now := time.Now()
	if now.Before(l.measure) || now.After(l.until) {
		return nil
	}
	done.messages++
	done.bytesOut += uint64(request.size)
	done.bytesIn += uint64(got.size)
	done.latencies.add(now.Sub(request.at))
	done.last = now
	return nil
}

// unary keeps window calls under way.
func (l *load) unary(ctx context.Context, conn *grpc.ClientConn) (*counts, error) {
	var group sync.WaitGroup
	total := &counts{}
	var lock sync.Mutex
	var failure error
	for range l.window {
		group.Add(1)
		go func() {
			defer group.Done()
			done := &counts{}
			var got answer
			for time.Now().Before(l.until) {
				request := l.take()
				at := time.Now()
				err := conn.Invoke(ctx, l.method, request, &got)
				if err == nil {
					err = l.count(done, sent{at, len(request)}, &got)
				}
				if err != nil {
					lock.Lock()
					failure = err
					lock.Unlock()
					return
				}
			}
			lock.Lock()
			total.add(done)
			lock.Unlock()
		}()
	}
	group.Wait()
	return total, failure
}

var serverStream = grpc.StreamDesc{ServerStreams: true}

// consume reads one stream, again from its beginning whenever it ends.
func (l *load) consume(ctx context.Context, conn *grpc.ClientConn) (*counts, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	done := &counts{}
	var got answer
	for time.Now().Before(l.until) {
		call, err := conn.NewStream(ctx, &serverStream, l.method)
		if err != nil {
			return nil, err
		}
		request := l.take()
		if err := call.SendMsg(request); err != nil && !errors.Is(err, io.EOF) {
			return nil, err
		}
		if err := call.CloseSend(); err != nil {
			return nil, err
		}
		before := time.Now()
		for {
			err := call.RecvMsg(&got)
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				return nil, err
			}
			if err := l.count(done, sent{before, len(request)}, &got); err != nil {
				return nil, err
			}
			before = time.Now()
			if before.After(l.until) {
				return done, nil
			}
		}
	}
	return done, nil
}

func (c *counts) add(other *counts) {
	c.messages += other.messages
	c.bytesOut += other.bytesOut
	c.bytesIn += other.bytesIn
	c.latencies.merge(&other.latencies)
	if other.last.After(c.last) {
		c.last = other.last
	}
}
