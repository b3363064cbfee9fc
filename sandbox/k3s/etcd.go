package main

import (
	"context"
	"fmt"
	"net/url"
	"os"
	"time"

	"go.etcd.io/etcd/server/v3/embed"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

// datastore is the etcd inside the main process.
type datastore struct {
	etcd  *embed.Etcd
	level zap.AtomicLevel
	url   string
}

// startEtcd runs the datastore, reachable only by a socket in a 0700 directory. fsync stays on:
// a killed host must keep what it acknowledged.
func startEtcd(ctx context.Context, l layout) (*datastore, error) {
	client := url.URL{Scheme: "unix", Path: l.server("db", "etcd.sock")}
	peer := url.URL{Scheme: "unix", Path: l.server("db", "peer.sock")}
	config := embed.NewConfig()
	config.Name = "k3s"
	config.Dir = l.server("db", "etcd")
	config.ListenClientUrls = []url.URL{client}
	config.ListenPeerUrls = []url.URL{peer}
	// What is advertised must have a port; nobody listens there, as there is no other member and
	// the API server is given the socket.
	config.AdvertiseClientUrls = []url.URL{{Scheme: "http", Host: "127.0.0.1:2379"}}
	config.AdvertisePeerUrls = []url.URL{{Scheme: "http", Host: "127.0.0.1:2380"}}
	config.InitialCluster = config.InitialClusterFromName(config.Name)
	config.WarningUnaryRequestDuration = 500 * time.Millisecond // its zero value logs every request
	config.EnableGRPCGateway = false
	config.QuotaBackendBytes = 2 << 30
	config.SnapshotCount = 5000
	config.MaxRequestBytes = 3 << 20
	// One member: nothing to elect against, so the first leader may come at once.
	config.TickMs, config.ElectionMs = 50, 500

	store := &datastore{level: zap.NewAtomicLevelAt(zap.ErrorLevel), url: client.String()}
	encoder := zapcore.NewConsoleEncoder(zap.NewProductionEncoderConfig())
	logger := zap.New(zapcore.NewCore(encoder, zapcore.Lock(os.Stderr), store.level))
	config.ZapLoggerBuilder = embed.NewZapLoggerBuilder(logger.Named("etcd"))

	var err error
	if store.etcd, err = embed.StartEtcd(config); err != nil {
		return nil, fmt.Errorf("start etcd in %s: %w", config.Dir, err)
	}
	select {
	case <-store.etcd.Server.ReadyNotify():
		return store, nil
	case err = <-store.etcd.Err():
		err = fmt.Errorf("etcd: %w", err)
	case <-time.After(60 * time.Second):
		err = fmt.Errorf("etcd in %s did not become ready within 60 s", config.Dir)
	case <-ctx.Done():
		err = ctx.Err()
	}
	store.close()
	return nil, err
}

// watch reports a datastore that fails while it runs.
func (d *datastore) watch(failed chan<- error) {
	if err := <-d.etcd.Err(); err != nil {
		failed <- fmt.Errorf("etcd: %w", err)
	}
}

// close ends it. Its own account of that is four errors long and says nothing: it is muted.
func (d *datastore) close() {
	d.level.SetLevel(zap.FatalLevel)
	d.etcd.Close()
}
