package bookinfo

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"time"
)

// databaseTimeout bounds one look at the database.
const databaseTimeout = 5 * time.Second

// MySQL returns a check that a MySQL server at address greets. In MySQL the
// server speaks first, so an accepted connection alone proves nothing behind a
// proxy. (MySQL client/server protocol, "Connection Phase": a packet header of 3
// bytes length and 1 byte sequence, then protocol version 10, or 0xff: refused.)
func MySQL(address string) func(context.Context) error {
	return func(ctx context.Context) error {
		return withConn(ctx, address, func(c net.Conn) error {
			var head [5]byte
			if _, err := io.ReadFull(c, head[:]); err != nil {
				return fmt.Errorf("waiting for the greeting: %w", err)
			}
			if head[3] != 0 || head[4] != 10 {
				return errors.New("the server refused, or is no MySQL server")
			}
			return nil
		})
	}
}

// MongoDB returns a check that a MongoDB server at address answers "hello".
// (MongoDB wire protocol: OP_MSG, opcode 2013, with one BSON document.)
func MongoDB(address string) func(context.Context) error {
	bson := "\x10hello\x00\x01\x00\x00\x00" + "\x02$db\x00\x06\x00\x00\x00admin\x00" + "\x00"
	const opMsg, head, flagsAndKind = 2013, 16, 5
	msg := binary.LittleEndian.AppendUint32(nil, uint32(head+flagsAndKind+4+len(bson)))
	msg = binary.LittleEndian.AppendUint32(msg, 1) // request id
	msg = binary.LittleEndian.AppendUint32(msg, 0) // in response to
	msg = binary.LittleEndian.AppendUint32(msg, opMsg)
	msg = append(msg, make([]byte, flagsAndKind)...)
	msg = binary.LittleEndian.AppendUint32(msg, uint32(4+len(bson)))
	msg = append(msg, bson...)
	return func(ctx context.Context) error {
		return withConn(ctx, address, func(c net.Conn) error {
			if _, err := c.Write(msg); err != nil {
				return fmt.Errorf("saying hello: %w", err)
			}
			var answer [head]byte
			if _, err := io.ReadFull(c, answer[:]); err != nil {
				return fmt.Errorf("waiting for the answer to hello: %w", err)
			}
			if binary.LittleEndian.Uint32(answer[8:]) != 1 || binary.LittleEndian.Uint32(answer[12:]) != opMsg {
				return errors.New("the server is no MongoDB server")
			}
			return nil
		})
	}
}

func withConn(ctx context.Context, address string, f func(net.Conn) error) error {
	ctx, cancel := context.WithTimeout(ctx, databaseTimeout)
	defer cancel()
	c, err := new(net.Dialer).DialContext(ctx, "tcp", address)
	if err != nil {
		return err
	}
	defer c.Close()
	if deadline, ok := ctx.Deadline(); ok {
		c.SetDeadline(deadline)
	}
	if err := f(c); err != nil {
		return fmt.Errorf("database %s: %w", address, err)
	}
	return nil
}
