package apiserver

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// port is a free loopback port that nobody else gets while it is held: a socket is bound to it that never listens, and
// the API server binds beside it with SO_REUSEPORT.
type port struct {
	socket int
	number int
}

func reservePort() (_ *port, err error) {
	socket, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM, 0)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, unix.Close(socket))
		}
	}()
	unix.CloseOnExec(socket)
	if err := unix.SetsockoptInt(socket, unix.SOL_SOCKET, unix.SO_REUSEPORT, 1); err != nil {
		return nil, err
	}
	if err := unix.Bind(socket, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}); err != nil {
		return nil, err
	}
	name, err := unix.Getsockname(socket)
	if err != nil {
		return nil, err
	}
	bound, ok := name.(*unix.SockaddrInet4)
	if !ok {
		return nil, fmt.Errorf("a socket of another family: %T", name)
	}
	return &port{socket: socket, number: bound.Port}, nil
}

func (p *port) release() { _ = unix.Close(p.socket) }
