package main

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"

	"google.golang.org/grpc"
)

// echo is a server for the client to be measured against: the same bytes back, or for a server stream the prepared
// requests as answers. It shows how fast the client is when the server is not what is waited for.
func echo(addr string, answers [][]byte) error {
	listener, err := net.Listen("tcp", addr)
	if err != nil {
		return err
	}
	handler := func(_ any, stream grpc.ServerStream) error {
		var got answer
		for n := 0; ; n++ {
			err := stream.RecvMsg(&got)
			if errors.Is(err, io.EOF) {
				return nil
			}
			if err != nil {
				return err
			}
			method, _ := grpc.MethodFromServerStream(stream)
			if method == "/bench.Bare/Send" {
				for i := 0; i < 4096; i++ {
					if err := stream.SendMsg(answers[i%len(answers)]); err != nil {
						return err
					}
				}
				return nil
			}
			if err := stream.SendMsg(answers[n%len(answers)]); err != nil {
				return err
			}
		}
	}
	server := grpc.NewServer(
		grpc.ForceServerCodecV2(raw{}), grpc.UnknownServiceHandler(handler), grpc.MaxRecvMsgSize(maxMessage),
		grpc.InitialWindowSize(windowBytes), grpc.InitialConnWindowSize(windowBytes),
	)
	fmt.Fprintf(os.Stdout, "{\"port\": %d}\n", listener.Addr().(*net.TCPAddr).Port)
	return server.Serve(listener)
}
