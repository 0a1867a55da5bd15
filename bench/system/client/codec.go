package main

import (
	"fmt"

	"google.golang.org/grpc/encoding"
	"google.golang.org/grpc/mem"
)

// raw passes messages as they are: what is measured is the transport, not a protobuf library.
type raw struct{}

var _ encoding.CodecV2 = raw{}

func (raw) Name() string { return "proto" }

func (raw) Marshal(v any) (mem.BufferSlice, error) {
	message, ok := v.([]byte)
	if !ok {
		return nil, fmt.Errorf("not bytes: %T", v)
	}
	return mem.BufferSlice{mem.SliceBuffer(message)}, nil
}

// Unmarshal keeps small messages, whose errors are looked at; of large ones, kept are the size and the first bytes.
func (raw) Unmarshal(data mem.BufferSlice, v any) error {
	answer, ok := v.(*answer)
	if !ok {
		return fmt.Errorf("not an answer: %T", v)
	}
	answer.size = data.Len()
	if answer.whole || answer.size <= smallAnswer {
		answer.data = data.MaterializeToBuffer(mem.DefaultBufferPool()).ReadOnlyData()
	} else {
		answer.data = nil
	}
	return nil
}

const smallAnswer = 4096

// answer is one message from the server.
type answer struct {
	size  int
	data  []byte // nil for a large message, unless whole
	whole bool
}

// text is the content of a top-level string field, or "" when the message has none.
func text(message []byte, field uint64) string {
	for len(message) > 0 {
		tag, n := varint(message)
		message = message[n:]
		switch tag & 7 {
		case 0:
			_, n = varint(message)
			message = message[n:]
		case 2:
			size, n := varint(message)
			message = message[n:]
			if tag>>3 == field {
				return string(message[:size])
			}
			message = message[size:]
		default:
			return "an answer that is not protobuf"
		}
	}
	return ""
}

func varint(data []byte) (value uint64, n int) {
	for shift := 0; n < len(data); shift += 7 {
		value |= uint64(data[n]&0x7f) << shift
		n++
		if data[n-1] < 0x80 {
			return value, n
		}
	}
	return value, n
}
