package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"
)

// supervisor runs the component processes. Each dies with the main process (Pdeathsig), and the
// main process ends as soon as one of them does: systemd then starts everything again.
// Containers are not its children: containerd's shims outlive it.
type supervisor struct {
	spawn  chan func()
	failed chan error

	mu       sync.Mutex
	children []*child
	stopping bool
}

type child struct {
	name string
	cmd  *exec.Cmd
	done chan struct{}
}

func newSupervisor() *supervisor {
	s := &supervisor{spawn: make(chan func()), failed: make(chan error, 16)}
	go func() {
		// The kernel sends Pdeathsig when the *thread* that forked ends, so one thread does
		// all the forking and is never given back.
		runtime.LockOSThread()
		for start := range s.spawn {
			start()
		}
	}()
	return s
}

// start runs path under the name with the arguments; its output goes to out.
func (s *supervisor) start(name, path string, args []string, env []string, out io.Writer) error {
	cmd := exec.Command(path, args...)
	cmd.Args[0] = name
	// Only the main process speaks to systemd: some components would say READY by themselves.
	cmd.Env = append(withoutEnv(os.Environ(), "NOTIFY_SOCKET"), env...)
	cmd.Stdout, cmd.Stderr = out, out
	// An own process group keeps a terminal's Ctrl-C for the main process alone.
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
	result := make(chan error)
	s.spawn <- func() { result <- cmd.Start() }
	if err := <-result; err != nil {
		return fmt.Errorf("start %s: %w", name, err)
	}
	c := &child{name, cmd, make(chan struct{})}
	s.mu.Lock()
	s.children = append(s.children, c)
	s.mu.Unlock()
	log.Printf("started %s, pid %d", name, cmd.Process.Pid)
	go func() {
		err := cmd.Wait()
		close(c.done)
		s.mu.Lock()
		stopping := s.stopping
		s.mu.Unlock()
		if !stopping {
			if err == nil {
				err = errors.New("exit status 0")
			}
			log.Printf("%s ended: %v", name, err)
			s.failed <- fmt.Errorf("%s ended: %w", name, err)
		}
	}()
	return nil
}

func withoutEnv(env []string, name string) []string {
	return slices.DeleteFunc(env, func(entry string) bool { return strings.HasPrefix(entry, name+"=") })
}

// component runs one of the Kubernetes programs inside this file.
func (s *supervisor) component(name string, args []string) error {
	return s.start(name, "/proc/self/exe", args, nil, os.Stderr)
}

// stopGrace is what a child gets to end by itself. The API server would use a minute to drain its
// watches; nothing is lost by cutting that short, as etcd holds every acknowledged write.
const stopGrace = 2 * time.Second

// stop ends the children: the last started is told first, and all are waited for together.
func (s *supervisor) stop() {
	s.mu.Lock()
	s.stopping = true
	children := append([]*child(nil), s.children...)
	s.mu.Unlock()
	for index := len(children) - 1; index >= 0; index-- {
		// A child that has ended already needs no signal.
		_ = children[index].cmd.Process.Signal(syscall.SIGTERM)
	}
	grace, cancel := context.WithTimeout(context.Background(), stopGrace)
	defer cancel()
	for _, c := range children {
		select {
		case <-c.done:
		case <-grace.Done():
			_ = c.cmd.Process.Kill()
			<-c.done
		}
	}
}

// waitFor repeats probe until it succeeds. It gives up with the probe's last reason.
func waitFor(ctx context.Context, what string, limit time.Duration, probe func() error) error {
	deadline := time.Now().Add(limit)
	for {
		err := probe()
		if err == nil {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("%s was not ready within %s: %w", what, limit, err)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// notify tells systemd (Type=notify) about a change of state.
func notify(state string) {
	socket := os.Getenv("NOTIFY_SOCKET")
	if socket == "" {
		return
	}
	conn, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: socket, Net: "unixgram"})
	if err != nil {
		log.Printf("warning: cannot notify systemd: %v", err)
		return
	}
	defer conn.Close()
	if _, err := conn.Write([]byte(state)); err != nil {
		log.Printf("warning: cannot notify systemd: %v", err)
	}
}
