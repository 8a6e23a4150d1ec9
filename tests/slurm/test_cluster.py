def test_nodes_have_their_own_names_and_processes(cluster):
    out = cluster.command("srun", "-N2", "-l", "bash", "-c", "echo $(hostname) $(ps ax | grep -c '[s]lurmctld')").stdout
    assert sorted(out.splitlines()) == ["0: node1 0", "1: node2 0"]
